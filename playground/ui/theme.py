"""The look, all colors and sizes of it in one place: calm, legible on a projector, the machine's own fonts."""

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
TEXT = gr.themes.sizes.Size(
    name="text", xxs="14px", xs="14px", sm="14px", md="16px", lg="18px", xl="22px", xxl="26px"
)  # nothing is smaller than 14 px


def theme() -> gr.themes.Base:
    """Quiet slate surfaces, one blue for what can be pressed, red only for what destroys."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.blue,
        neutral_hue=gr.themes.colors.slate,
        font=FONTS,
        font_mono=FONTS,
        radius_size=gr.themes.sizes.radius_md,
        text_size=TEXT,
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        body_text_color="#172033",
        body_text_color_dark="#eef2f8",
        body_text_color_subdued="#4b5768",  # 7:1 on white
        body_text_color_subdued_dark="#b4bfcf",
        border_color_primary="#d3dae4",
        border_color_primary_dark="#374357",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_info_text_color="#4b5768",
        block_info_text_color_dark="#b4bfcf",
        block_info_text_size="14px",
        block_label_text_weight="600",
        block_title_text_weight="600",
        block_title_text_color="#172033",
        block_title_text_color_dark="#eef2f8",
        button_primary_background_fill="#0b5cad",
        button_primary_background_fill_hover="#094a8c",
        button_primary_background_fill_dark="#1c6cbd",
        button_primary_background_fill_hover_dark="#2b7fd4",
        button_primary_text_color="white",
        button_secondary_background_fill="white",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_border_color="#8090a6",
        button_secondary_border_color_dark="#64748b",
        button_secondary_text_color="#172033",
        button_secondary_text_color_dark="#eef2f8",
        button_border_width="1px",
        button_large_text_weight="600",
        color_accent="#0b5cad",
        input_background_fill="white",
        input_background_fill_dark="*neutral_800",
        input_border_color="#8090a6",  # 3.3:1 on white
        input_border_color_dark="#64748b",
        input_border_width="1px",
        input_border_color_focus="#0b5cad",
        input_border_color_focus_dark="#5aa4ec",
        input_placeholder_color="#5d6a7d",
        input_placeholder_color_dark="#a3b0c2",
        input_shadow_focus="0 0 0 3px rgba(11, 92, 173, .35)",
        input_shadow_focus_dark="0 0 0 3px rgba(90, 164, 236, .45)",
        link_text_color="#0b5cad",
        link_text_color_dark="#7ab8f5",
    )
