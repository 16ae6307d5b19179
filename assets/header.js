// The header. Gradio runs this once, as a function of (element, props, …). `?present` opens the page in Present mode.

document.title = props.title, document.documentElement.lang = props.lang;

const button = element.querySelector(".present"), link = element.querySelector(".language");

function present(on) {
  document.body.classList.toggle("present", on);
  button.ariaPressed = on;
  const address = new URL(location.href);
  on ? address.searchParams.set("present", "1") : address.searchParams.delete("present");
  history.replaceState(history.state, "", address);
  link.search = address.search; // the other language's page is shown in the same way
  window.dispatchEvent(new Event("resize")); // charts take the new width
}

button.addEventListener("click", () => present(!document.body.classList.contains("present")));
present(new URLSearchParams(location.search).has("present"));
