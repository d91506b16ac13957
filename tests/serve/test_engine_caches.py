"""Caches change the time of an answer, never the answer."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from inkwash import Pipeline, Request
from inkwash.cond import Cond
from inkwash.errors import UsageError
from inkwash.serve import Engine
from inkwash.serve.embeddings import Embeddings, encoder_hash
from inkwash.serve.results import Results
from test_pipeline_exact import Named, ask, exact

ASK = Request("a small red cube", "two cones", seed=7, steps=2, sampler="ddim", guidance=3.0, width=32, height=32)


def number(text: str | None) -> Cond:
    return Cond({"n": torch.tensor([[float(len(text or ""))]])})


def test_O5_an_embedding_is_made_once_however_many_ask_at_once() -> None:
    cache, gate, calls = Embeddings(), threading.Event(), []

    def slow(text: str | None) -> Cond:
        calls.append(text)
        assert gate.wait(20)
        return number(text)

    found: list[Cond] = []
    threads = [threading.Thread(target=lambda: found.append(cache.get("encoder", "tenant", "a cat", slow))) for _ in range(8)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join(20)
    assert calls == ["a cat"]
    assert len({id(cond) for cond in found}) == 1
    assert len(found) == 8
    assert (cache.misses, cache.hits) == (1, 7)


def test_O5_the_key_is_encoder_tenant_and_text() -> None:
    cache, calls = Embeddings(), []

    def encode(text: str | None) -> Cond:
        calls.append(text)
        return number(text)

    for encoder in ("one", "two"):
        for tenant in ("anna", "bert"):
            for text in ("a", "", None, "a"):
                cache.get(encoder, tenant, text, encode)
    assert calls == ["a", "", None] * 4


def test_embeddings_are_bounded_and_drop_what_was_not_asked_for_longest() -> None:
    cache, calls = Embeddings(2), []

    def encode(text: str | None) -> Cond:
        calls.append(text)
        return number(text)

    for text in ("a", "b", "a", "c", "a", "b"):
        cache.get("", "", text, encode)
    assert calls == ["a", "b", "c", "b"]
    assert len(cache) == 2
    with pytest.raises(UsageError):
        Embeddings(0)


def test_a_failed_encoding_is_told_and_not_kept() -> None:
    cache = Embeddings()

    def fail(text: str | None) -> Cond:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        cache.get("", "", "a", fail)
    assert len(cache) == 0
    assert cache.get("", "", "a", number)["n"].item() == 1.0


def test_a_failed_encoding_leaves_what_another_made_meanwhile() -> None:
    cache = Embeddings(1)

    def fail(text: str | None) -> Cond:
        cache.get("", "", "b", number)                     # takes the only place
        cache.get("", "", "a", number)                     # and another asks for the same again
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        cache.get("", "", "a", fail)
    assert len(cache) == 1
    assert cache.get("", "", "a", fail)["n"].item() == 1.0


def test_the_hash_of_an_encoder_is_that_of_its_weights(tiny_model: Path, stranger_model: Path) -> None:
    one, again, other = (Pipeline.from_pretrained(folder).conditioner for folder in (tiny_model, tiny_model, stranger_model))
    assert encoder_hash(one) == encoder_hash(again) != encoder_hash(other)
    assert encoder_hash(Named()) != encoder_hash(one)
    again.tokenizer.length -= 1                            # type: ignore[union-attr, operator]
    assert encoder_hash(one) != encoder_hash(again)
    again.tokenizer.length += 1                            # type: ignore[union-attr, operator]
    with torch.no_grad():
        next(again.parameters()).view(-1)[0] += 1
    assert encoder_hash(one) != encoder_hash(again)


def test_O5_cached_or_not_the_same_bytes(tiny_model: Path) -> None:
    pipe = Pipeline.from_pretrained(tiny_model)
    [plain] = pipe.generate([ASK])
    pipe.call_seconds(pipe.codec.shape(32, 32), 16)        # the self-test encodes prompts too
    calls: list[int] = []
    pipe.conditioner.encoder.register_forward_hook(lambda module, given, out: calls.append(1))  # type: ignore[union-attr]
    engine = Engine(pipe, results=8)
    made = []
    for _ in range(2):
        engine.submit(ASK, key="anna")
        made += engine.run()
    engine.submit(ASK, key="bert")
    made += engine.run()
    assert [finished.cached for finished in made] == [False, True, False]
    assert all(finished.image is not None and torch.equal(finished.image.pixels, plain.pixels) and finished.image.nfe == 4 for finished in made)
    assert engine.rows_done == 8
    assert len(calls) == 4                                 # prompt and negative prompt, for each of two tenants


def test_engines_share_a_cache_that_is_empty_yet() -> None:
    cache, pipe = Embeddings(3), exact()
    engines = [Engine(pipe, embeddings=cache) for _ in range(2)]
    assert all(engine.embeddings is cache for engine in engines)
    for engine in engines:
        engine.submit(ask("cat"))
        engine.run()
    assert cache.hits > 0


def test_a_ticket_is_checked_though_its_image_is_kept() -> None:
    engine = Engine(exact(), results=1)
    engine.submit(ask("cat"))
    engine.run()
    for wrong in ({"deadline_sec": -1.0}, {"priority": "high"}, {"key": None}):
        with pytest.raises(UsageError):
            engine.submit(ask("cat"), **wrong)  # type: ignore[arg-type]


def test_results_drop_what_was_not_used_for_longest() -> None:
    made: list[Any] = [SimpleNamespace(request=ask("cat", seed=seed)) for seed in range(3)]
    for use in (lambda kept: kept.get("anna", made[0].request), lambda kept: kept.put("anna", made[0])):
        kept = Results(2)
        kept.put("anna", made[0])
        kept.put("anna", made[1])
        use(kept)
        kept.put("anna", made[2])
        assert [kept.get("anna", image.request) for image in made] == [made[0], None, made[2]]


def test_results_are_not_kept_unless_asked(tiny_model: Path) -> None:
    engine = Engine(Pipeline.from_pretrained(tiny_model))
    for _ in range(2):
        engine.submit(ASK)
        [finished] = engine.run()
        assert not finished.cached
    assert engine.rows_done == 8
    small = Engine(engine.pipeline, results=1)
    for seed in (1, 2, 1):
        small.submit(Request("a", seed=seed, steps=1, width=32, height=32))
        small.run()
    assert (len(small.results), small.results.hits) == (1, 0)
