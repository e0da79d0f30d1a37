"""The attention used while training is the stock one, and the vocabulary keeps Longformer's conventions."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the demo models are torch models")
pytest.importorskip("transformers", reason="the demo models are transformers models")

from demo_model import new_classifier, new_reader, train_vocabulary, use_prefix_attention  # noqa: E402


@pytest.mark.parametrize("new_model", [new_classifier, new_reader])
def test_prefix_attention_equals_stock_attention(new_model: Any) -> None:
    torch.manual_seed(0)
    model = new_model().eval()
    input_ids = torch.randint(5, 2048, (3, 200))
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, 130:] = 0
    global_attention_mask = torch.zeros_like(input_ids)
    for row, count in enumerate((1, 9, 14)):
        global_attention_mask[row, :count] = 1

    def hidden_states() -> Any:
        with torch.no_grad():
            return model.longformer(
                input_ids=input_ids,
                attention_mask=attention_mask,
                global_attention_mask=global_attention_mask,
            ).last_hidden_state[attention_mask > 0]

    stock = hidden_states()
    use_prefix_attention(model)
    fast = hidden_states()
    use_prefix_attention(model, enabled=False)
    assert torch.equal(hidden_states(), stock)
    assert not torch.equal(fast, stock)  # else the switch would do nothing
    assert torch.allclose(fast, stock, atol=1e-5)


def test_vocabulary_has_longformers_conventions() -> None:
    tokenizer = train_vocabulary(documents=50)
    assert tokenizer.convert_ids_to_tokens(list(range(5))) == ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    question, context = "Who acts as notary?", "Zoe Dalton does. ☂"
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(question, context).input_ids)
    assert tokens[0] == "<s>"
    assert [index for index, token in enumerate(tokens) if token == "</s>"] == [
        tokens.index("</s>"),
        tokens.index("</s>") + 1,
        len(tokens) - 1,
    ]
    assert tokenizer.decode(tokenizer(context, add_special_tokens=False).input_ids) == context
