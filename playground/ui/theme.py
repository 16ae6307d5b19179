"""The look: calm, legible on a projector, the machine's own fonts so that nothing is fetched."""

import gradio as gr

FONTS = [
    "system-ui",
    "-apple-system",
    "Segoe UI",
    "Hiragino Sans",
    "Noto Sans CJK JP",
    "Noto Sans JP",
    "Yu Gothic",
    "sans-serif",
]


def theme() -> gr.themes.Base:
    """Quiet slate surfaces, one blue for what can be pressed."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.blue,
        neutral_hue=gr.themes.colors.slate,
        font=FONTS,
        font_mono=FONTS,
        radius_size=gr.themes.sizes.radius_md,
        text_size=gr.themes.sizes.text_md,
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_label_text_weight="600",
        block_title_text_weight="600",
        block_info_text_size="*text_sm",
        button_primary_background_fill="#0b5cad",
        button_primary_background_fill_hover="#094a8c",
        button_primary_background_fill_dark="#2b7fd4",
        button_primary_background_fill_hover_dark="#4a97e4",
        button_primary_text_color="white",
        button_large_text_weight="600",
        input_background_fill="white",
        input_background_fill_dark="*neutral_800",
    )
