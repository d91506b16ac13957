"""The page: everything that was measured, with pictures and curves, in one HTML file without scripts or addresses of other files."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from torch import Tensor

from inkwash.evaluate.measure import METRICS
from inkwash.evaluate.memory import K, Memory
from inkwash.evaluate.metrics.interval import Estimate
from inkwash.evaluate.parts import reconstruct
from inkwash.evaluate.report import sections
from inkwash.evaluate.report.table import pairs, table
from inkwash.evaluate.run import Evaluation, scores
from inkwash.output import to_pil
from inkwash.pipeline import Pipeline

TYPICAL, FAILURES, REBUILT = 24, 12, 8
STYLE = """
:root{color-scheme:light dark;--ink:#202024;--paper:#fcfcfa;--soft:#66666e;--rule:#d8d8d4;--good:#00704f;--bad:#a83200}
@media(prefers-color-scheme:dark){:root{--ink:#e6e6e2;--paper:#1b1b1f;--soft:#a2a2aa;--rule:#3c3c42;--good:#4fc39b;--bad:#ff9466}}
*{box-sizing:border-box}body{margin:0 auto;max-width:1060px;padding:24px 20px 60px;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,sans-serif}h1{font-size:26px;margin:0 0 4px}
h2{font-size:19px;margin:36px 0 8px;border-top:1px solid var(--rule);padding-top:14px}
p{max-width:75ch}.soft,figcaption,caption,dt{color:var(--soft)}.wide{overflow-x:auto}table{border-collapse:collapse;font-size:14px;margin:10px 0}
caption{text-align:left;padding-bottom:4px}th,td{text-align:left;padding:4px 12px 4px 0;border-bottom:1px solid var(--rule);vertical-align:top}
.num{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}.row{display:flex;flex-wrap:wrap;gap:12px;margin:10px 0}
figure{margin:0;width:128px}figure.pair{width:auto}figure img{display:block;width:128px;height:auto;border:1px solid var(--rule)}
figure.pair div{display:flex;gap:3px}figcaption{font-size:12px;line-height:1.3;overflow-wrap:anywhere;max-width:520px}
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 18px;font-size:14px}dd{margin:0;overflow-wrap:anywhere}
.chart{width:100%;max-width:760px;height:auto;display:block;margin:14px 0;color:var(--ink)}
"""


def page(found: Evaluation, pipeline: Pipeline) -> str:
    """The HTML of a report."""
    about = found.about
    title = f"{about['model']['name']}: evaluation"
    head = (f"{about['num']} samples against {about['data']['num_reference']} {about['data']['reference']} pictures, {about['date']}. "
            f"Intervals hold the truth in {100 * about['level']:g} % of repetitions. Features: {about['extractors']['features']['name']} "
            f"{about['extractors']['features']['hash'][:12]}; numbers of other extractors cannot be compared with these.")
    body = [f"<h1>{escape(title)}</h1><p class=soft>{escape(head)}</p>",
            "<h2>Numbers</h2>", estimates(found.metrics), _errors(found, pipeline), sections.likelihood(found),
            _typical(found), _failures(found), _memory(found), sections.slices(found), sections.curves(found), sections.against(found),
            "<h2>How it was measured</h2>", pairs(sections.settings(found))]
    return (f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
            f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>{''.join(body)}</body></html>\n")


def estimates(rows: dict[str, Estimate]) -> str:
    """A table of metrics, each with interval, N and note."""
    return table(("", "value", "interval", "N", "better", "to know"),
                 [(METRICS[name].title, f"{e.value:.4g}", f"{e.low:.4g} to {e.high:.4g}", str(e.num),
                   "" if name == "saturation" else "lower" if METRICS[name].smaller_is_better else "higher", e.note) for name, e in rows.items()],
                 words=(5,))


def picture(image: Tensor) -> str:
    """An <img> with the picture inside, uint8 (3, H, W)."""
    data = io.BytesIO()
    to_pil(image).save(data, "PNG", optimize=True)
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}">'


def figures(images: Tensor, captions: Sequence[str]) -> str:
    """Pictures in rows, a caption under each."""
    return '<div class="row">' + "".join(f"<figure>{picture(image)}<figcaption>{escape(text)}</figcaption></figure>"
                                         for image, text in zip(images, captions, strict=True)) + "</div>"


def groups(rows: Sequence[tuple[Sequence[Tensor], str]]) -> str:
    """Pictures that belong together, side by side over one caption."""
    cells = [f'<figure class="pair"><div>{"".join(map(picture, images))}</div><figcaption>{escape(text)}</figcaption></figure>'
             for images, text in rows]
    return f'<div class="row">{"".join(cells)}</div>'


def _errors(found: Evaluation, pipeline: Pipeline) -> str:
    rows = [(name, *(f"{row[key].value:.4g} [{row[key].low:.4g}, {row[key].high:.4g}]" for key in ("fd", "kid")), str(row["fd"].num))
            for name, row in found.parts.items()]
    text = "<h2>Errors kept apart</h2><p>The first line is the autoencoder's, the second the denoiser's, the third what people see.</p>"
    text += table(("", "Fréchet distance", "kernel distance", "N"), rows)
    lossy = found.psnr[found.psnr.isfinite()] if found.psnr is not None else None
    if found.psnr is None or lossy is None or not len(lossy):
        return text + "<p>The model works on pixels: nothing is lost by encoding.</p>"
    index = list(range(min(REBUILT, len(found.real))))
    before = found.real.take(index)
    after = reconstruct(pipeline, before)
    text += (f"<p>Reconstruction: {float(lossy.mean()):.2f} dB PSNR on average, {float(lossy.min()):.2f} dB at worst"
             f"{f'; without any loss: {len(found.psnr) - len(lossy)}' if len(lossy) < len(found.psnr) else ''}. "
             "Left real, right rebuilt.</p>")
    return text + groups([((a, b), f"{float(found.psnr[i]):.1f} dB") for i, a, b in zip(index, before, after, strict=True)])


def _typical(found: Evaluation) -> str:
    index = list(range(min(TYPICAL, len(found.main.samples.requests))))
    requests = [found.main.samples.requests[i] for i in index]
    return ("<h2>Typical samples</h2><p>The first seeds, not chosen.</p>"
            + figures(found.main.samples.pictures.take(index), [f"{r.prompt} · seed {r.seed}" for r in requests]))


def _failures(found: Evaluation) -> str:
    """The worst samples by their own scores; without such scores none can be named."""
    own = scores(found.main.views)
    if not own:
        return ("<h2>Failures</h2><p>No score of single pictures was measured, so none can be called worst. Name an image-text encoder by --clip, "
                "or use data with captions that can be judged.</p>")
    name, values = next(iter(own.items()))
    order = [int(i) for i in values.nan_to_num(float("inf")).argsort()[:FAILURES] if bool(values[i].isfinite())]
    requests = [found.main.samples.requests[i] for i in order]
    return (f"<h2>Failures</h2><p>The lowest of {int(values.isfinite().sum())} samples by {escape(METRICS[name].title)}.</p>"
            + figures(found.main.samples.pictures.take(order),
                      [f"{r.prompt} · seed {r.seed} · {float(values[i]):.3g}" for i, r in zip(order, requests, strict=True)]))


def _power(memory: Memory) -> str:
    """What follows when planted copies are not found."""
    if memory.conclusive:
        return ""
    return "<p><strong>Most planted copies were not found, so the test says nothing about this model.</strong></p>"


def _memory(found: Evaluation) -> str:
    if found.memory is None or found.train is None:
        return "<h2>Copies of training pictures</h2><p>There were no training pictures to compare with.</p>"
    memory, inner = found.memory, found.memory.found
    rows = [("samples flagged as copies", inner.share), ("fresh pictures flagged by chance", inner.false_positives),
            ("what is left: memorized", inner.excess), ("planted copies found", memory.canaries)]
    text = table(("", "share", "interval", "N", "to know"),
                 [(name, f"{e.value:.2%}", f"{e.low:.2%} to {e.high:.2%}", str(e.num), e.note) for name, e in rows], words=(4,))
    shown = []
    for sample, index in memory.shown:
        request = found.main.samples.requests[sample]
        images = [found.main.samples.pictures.take([sample])[0], *memory.pictures.take(list(index))]
        shown.append((images, f"{request.prompt} · seed {request.seed} · ratio {float(inner.ratio[sample]):.3f}"
                              f"{' · flagged' if bool(inner.flagged[sample]) else ''} | {found.train.caption(index[0])}"))
    return ("<h2>Copies of training pictures</h2><p>The number is the distance to the nearest training picture over the mean distance to the "
            f"{min(K, len(found.train) - 1)} nearest. Below {inner.threshold:.3f} a sample is flagged, which happens to at most {memory.rate:.1%} of "
            f"pictures that were never seen.</p>{text}{_power(memory)}"
            "<p>The samples with the lowest ratios, left, beside their nearest training pictures.</p>"
            + groups(shown))
