() => {
  // Draw the result card on a canvas and download it as a PNG, twice its size so that it is sharp on any screen.
  const svg = document.querySelector('.result-card svg');
  if (!svg) return;
  const [width, height] = [Number(svg.getAttribute('width')), Number(svg.getAttribute('height'))];
  const image = new Image();
  image.onload = () => {
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [2 * width, 2 * height];
    canvas.getContext('2d').drawImage(image, 0, 0, canvas.width, canvas.height);
    const link = document.createElement('a');
    link.download = 'result-card.png';
    link.href = canvas.toDataURL('image/png');
    link.click();
  };
  image.src = 'data:image/svg+xml;charset=utf-8,' + encodeURIComponent(new XMLSerializer().serializeToString(svg));
}
