"""What a completion says after the reasoning that a model keeps in <think> tags."""

import re

TAG = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)


def after_thinking(completion: str) -> str:
    """What follows the last </think>, which may lack its <think> where the prompt holds it; without tags, all of it.

    Nothing where reasoning was begun and not ended: what is named in it is no answer yet.
    """
    tags = [*TAG.finditer(completion)]
    if not tags:
        return completion
    return completion[tags[-1].end() :] if tags[-1][1] else ""
