"""An adapter from elsewhere on the Compare tab: chosen, compared with its base, refused for another."""

import torch
from actions import choose_toy, limit_answers, notices, open_tab, wait_until_answered
from peft import LoraConfig, get_peft_model
from playwright.sync_api import expect
from transformers import AutoModelForCausalLM

from playground.i18n import translate

LONG = 60_000  # ms: the planning process and the engine start


def plain_adapter(base, folder):
    """An adapter for the model of a folder, saved by PEFT alone."""
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=4, target_modules=["q_proj"]))
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


def test_a_folder_from_elsewhere_answers_beside_its_base_and_is_refused_for_another(shared_page, app, toy, tmp_path):
    adapter, page = plain_adapter(app.model, tmp_path / "my-lora"), shared_page
    choose_toy(page, app)
    open_tab(page, "tab.chat")
    field = page.locator("#elsewhere textarea, #elsewhere input").first
    field.fill("/no/such/adapter")
    field.press("Enter")
    expect(notices(page)).to_contain_text("/no/such/adapter", timeout=LONG)
    field.fill(str(adapter))
    field.press("Enter")
    facts = translate("en", "chat.elsewhere.facts", r=4, layers=2, trained_on=app.model.name)
    expect(notices(page, "good").filter(has_text=facts)).to_be_visible(timeout=LONG)
    choice = translate("en", "chat.elsewhere.choice", name="my-lora")
    expect(page.get_by_label(translate("en", "chat.adapter"), exact=True)).to_have_value(choice)
    expect(page.locator(".prose.compare-heads")).to_contain_text("adapter my-lora")
    limit_answers(page, 3)
    page.locator("#question textarea").fill("What is it?")
    page.locator("#question textarea").press("Enter")
    wait_until_answered(page)
    for side in ("base", "tuned"):
        expect(page.locator(f".side-{side} .facts")).to_contain_text("tokens/s")
    choose_toy(page, app, toy(hidden_size=32))
    open_tab(page, "tab.chat")
    expect(page.get_by_label(translate("en", "chat.adapter"), exact=True)).to_have_value(choice)
    field.fill(str(adapter))
    field.press("Enter")
    expect(notices(page).filter(has_text="4 × 64")).to_contain_text("4 × 32", timeout=LONG)
