"""One text, or several."""

from collections.abc import Iterable, Mapping

from lmbase.text.segmentation import check_unicode


def text_list(texts: str | Iterable[str], name: str = "texts") -> list[str]:
    """Texts as a list. A text alone is a list of one, never the list of its characters.

    Raises:
        ValueError: something that is no text, or one with a lone surrogate.
    """
    if isinstance(texts, Mapping) or hasattr(texts, "columns"):
        raise ValueError(
            f"{name}: a {type(texts).__name__} has names and values; give the texts that it holds, or of a tokenizer's "
            "output generate(**output)."
        )
    found = [texts] if isinstance(texts, str | bytes) else list(texts) if isinstance(texts, Iterable) else [texts]
    for number, text in enumerate(found):
        if not isinstance(text, str):
            raise ValueError(
                f"{name}: number {number} is {text!r:.40}, which is a {type(text).__name__}; give a text or a list of "
                "texts (bytes are decoded first)."
            )
        check_unicode(text)
    return found
