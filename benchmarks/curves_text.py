"""The results of `curves.py` as tables to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def amplification(part: dict[str, Any]) -> str:
    rows = [[name, kind, *part[name][kind]] for name in ("linear", "cosine") for kind in part[name]]
    return table(["process", "prediction", *(f"t = {t:g}" for t in part["t"])], rows)


def quality(part: dict[str, Any], measure: str) -> str:
    budgets = (5, 10, 20, 50, 100, 1000)
    rows = []
    for name, found in part["samplers"].items():
        by = {row["budget"]: row for row in found}
        rows.append([name, *(by[budget][measure] if budget in by else "" for budget in budgets)])
    return table(["sampler", *budgets], rows)


def curve(rows: Sequence[dict[str, Any]]) -> str:
    return table(list(rows[0]), [list(row.values()) for row in rows])


def tables(result: dict[str, Any]) -> str:
    """The whole page."""
    on, steps, toy, model = result["machine"], result["steps"], result["predictions"], result["model"]
    exact, guided = result["quality"]["exact samples"], result["guidance"]
    ratios = table(["", "steps", "wall time", "processor time"], [[name, *steps[name].values()] for name in steps if " over " in name])
    kinds = ("eps", "x0", "v", "velocity")
    measures = ("frechet", "sliced", "first_x0_error")
    trained = table(["prediction", "Frechet (2 runs)", "sliced Wasserstein (2 runs)", "error of x0 at t = 1 (2 runs)"],
                    [[kind, *(", ".join(map(str, toy[kind][key])) for key in measures)] for kind in kinds])
    return f"""# Curves

{on['date']}, {on['processor']}, {on['cores']} core(s), {on['threads']} thread(s), Python {on['python']}, torch {on['torch']},
inkwash {on['inkwash']}. `{result['command']}`; the numbers are in the JSON file of the same name.

## How much an error of the network grows in x0

{amplification(result['amplification'])}
## Distance from the data against network evaluations

The exact denoiser of a mixture of 8 in the plane, {result['quality']['process']} process, trailing steps, {result['quality']['samples']} samples;
a sampler makes as many steps as the evaluations allow. Exact samples have a Frechet distance of {exact['frechet']} and a sliced Wasserstein
distance of {exact['sliced']}: below these nothing can be told. `consistency` and `lcm` expect a network that jumps to the end of its
trajectory, which a denoiser does not.

Frechet distance:

{quality(result['quality'], 'frechet')}
Share of samples further than 4 deviations from every mode, {exact['astray']} of exact samples: what falls between the modes.

{quality(result['quality'], 'astray')}
Sliced Wasserstein distance:

{quality(result['quality'], 'sliced')}
## Time against steps

DDIM with a small U-Net, the best of several runs.

{ratios}
## Guidance with exact scores

A mixture of 3 classes in the plane, classifier-free guidance of one class, {guided['sampler']}, {guided['steps']} steps,
{guided['samples']} samples. `w` = 1 is no guidance; `w_extra` = w - 1 is the other convention. `bias` is the distance from p(x) p(c|x)^w,
which guidance does not sample for w other than 0 and 1; the values there are the floor.

{curve(guided['rows'])}
## The same network, four predictions

{toy['process']} process, {toy['training steps']} training steps of {toy['batch']} on the mixture of 8, {toy['sampler']} with {toy['steps']} steps.

{trained}
## Guidance of the embedded model

{_model(model)}"""


def _model(found: dict[str, Any] | str) -> str:
    if isinstance(found, str):
        return found + "\n"
    return (f"{found['model']}, {found['sampler']}, {found['steps']} steps, {len(found['prompts'])} prompts x {found['seeds']} seeds. "
            f"Scale in both conventions.\n\n{curve(found['rows'])}")
