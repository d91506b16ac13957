"""Sentences that say what a scene shows. Every word is true of the scene; not everything that is true is said."""

from __future__ import annotations

from inkwash.data.scenes.layout import Dice, Group, Scene
from inkwash.data.scenes.vocabulary import FLAT_TOPPED, NUMBERS, RELATIONS, SHAPES

_WORDS = {
    "left of": ("left of", "to the left of"), "right of": ("right of", "to the right of"), "above": ("above",), "below": ("below", "under"),
    "behind": ("behind",), "in front of": ("in front of",),
}


def phrase(group: Group, dice: Dice) -> str:
    """For example `two small shiny red cubes` or `a blue glass ball`."""
    singular, plural = dice.pick(SHAPES[group.shape]) if dice.chance(0.3) else SHAPES[group.shape][0]
    said = {"matte": 0.35, "shiny": 0.85, "metal": 1.0, "glass": 1.0}[group.material]
    material = group.material if dice.chance(said) else ""
    size = group.size if group.size != "medium" else ""
    if material in ("metal", "glass"):
        words = [size, group.colour, material]
    else:
        words = [size, material, group.colour]
    text = " ".join(word for word in [*words, singular if group.count == 1 else plural] if word)
    if group.count == 1:
        return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"
    return f"{NUMBERS[group.count]} {text}"


def compose(scene: Scene, dice: Dice) -> tuple[str, dict[str, object] | None]:
    """The caption, and the relation as it says it: {subject, relation, object} with the groups' numbers."""
    said: dict[str, object] | None = None
    if scene.relation:
        turned = dice.chance(0.5)
        subject, relation = (1, RELATIONS[scene.relation]) if turned else (0, scene.relation)
        word = dice.pick(_WORDS[relation])
        if relation == "above" and scene.groups[1].shape in FLAT_TOPPED and dice.chance(0.6):
            word = "on top of"
        text = f"{phrase(scene.groups[subject], dice)} {word} {phrase(scene.groups[1 - subject], dice)}"
        said = {"subject": subject, "relation": relation, "object": 1 - subject}
    else:
        text = phrase(scene.groups[0], dice)
    if scene.light in ("soft", "hard") and dice.chance(0.4):                           # coloured light changes the background's colour
        text += f" on {'an' if scene.background[0] in 'aeiou' else 'a'} {scene.background} background"
    if dice.chance(0.4 if scene.light == "soft" else 0.8):
        light = {"soft": "soft light", "hard": "hard light", "warm": "warm light", "evening": "evening light"}[scene.light]
        if scene.light == "hard" and dice.chance(0.5):
            light += f" from the {'left' if scene.side < 0 else 'right'}"
        text += f", {light}"
    return text, said
