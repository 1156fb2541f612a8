"""A tagger compiled for few shapes of batches, and which of its programs computes a batch.

A program is for one padded length and one number of sentences. Compiling it takes as long as tagging thousands of sentences,
so a larger program that is there serves until its padding has cost as much.
"""

import collections
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from colnorm.data.encoding import Encoder
from colnorm.posteriors import Posteriors, posteriors
from colnorm.process import available_cores
from colnorm.spelling import Spellings
from colnorm.tagger import Tagger, apply, decode

# Each pair of a padded length and a number of sentences is a program that is compiled once and stays: seconds and some
# 20 MiB. Over the 47,959 sentences of GMB, in batches of 64, multiples of 8 pad to 1.16 times the tokens and make 9 programs;
# powers of two alone pad to 1.41 times; with the two lengths between them here it is 1.20 times and 7 programs.
LENGTHS = (16, 24, 32, 48, *(2**power for power in range(6, 16)))
"""Padded lengths. The last one is the most tokens that a sentence may have."""

ROWS = (64, 8, 1)
"""Numbers of sentences in a batch, of short ones; longer ones are fewer."""

FEW_BATCHES = 4
"""Batches of a shape up to which a program is worth no more than a quick compilation: it saves half of the time, and costs some
tenths of a second a batch."""

WORTH_COMPILING = 2**17
"""Tokens of padding, over all batches of a shape so far, from which on the shape gets a program of its own, compiled in the
background. Until then a larger one computes it, if there is one. Compiling takes two cores as long as so many tokens."""

MOST_TOKENS = 2**13
"""Padded tokens in a batch, but for a batch of one sentence."""

MOST_MOVES = 2**24
"""Posteriors of pairs of tags in a batch, again but for one sentence: 64 MiB in float32."""


class Program(NamedTuple):
    """Padded length, sentences, and whether it is compiled quickly: it then takes longer for a batch."""

    length: int
    rows: int
    quick: bool


class Programs:
    """The programs of a tagger.

    Args:
      model: the tagger.
      params: its parameters.
      encoder: its vocabularies.
      temperature: by what scores are divided for posteriors.
    """

    def __init__(self, model: Tagger, params: Any, encoder: Encoder, temperature: float):
        self._params = params

        def infer(params: Any, inputs: Mapping[str, jax.Array]) -> tuple[jax.Array, Posteriors]:
            emissions, chain = apply(model, params, inputs)
            lengths = inputs["lengths"]
            return decode(emissions, chain, lengths), posteriors(emissions, chain, lengths, temperature)

        self._without_characters = dataclasses.replace(encoder, characters=None)
        # With fewer of LLVM's optimizations it is compiled in two thirds of the time, and runs as fast.
        full = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
        self._full = jax.jit(infer, compiler_options=full)
        # Without optimizations a program is compiled in half of the time, and by the older emitter, which later releases have
        # not, in a quarter. It then takes four times as long: for one sentence still milliseconds.
        quick: dict[str, Any] = {"xla_backend_optimization_level": 0}
        if jax.__version_info__ < (0, 11):
            quick["xla_cpu_use_fusion_emitters"] = False
        options = quick if jax.default_backend() == "cpu" else None
        self._quick = jax.jit(infer, compiler_options=options)
        self._batches: collections.Counter[tuple[int, int]] = collections.Counter()  # so far, by padded length and rows
        self._compiled: set[Program] = set()
        self._background = ThreadPoolExecutor(1)
        self._compiling: dict[Program, Future[Any]] = {}  # in the background, now or before
        self._spellings = Spellings(model, params, encoder, options, full) if model.num_characters else None

    def compute(
        self, sentences: Sequence[Sequence[str]], batch_size: int = ROWS[0]
    ) -> Iterator[tuple[list[int], tuple[jax.Array, Posteriors]]]:
        """The batches of :func:`plan`: places of their sentences, tags and posteriors, which may still be computed."""
        batches = plan([len(words) for words in sentences], len(self._without_characters.tags.names), batch_size)
        programs = self.choose([(length, rows) for length, rows, _ in batches])
        new = [program for program in dict.fromkeys(programs) if program not in self._compiled]
        with ThreadPoolExecutor(available_cores()) as pool:
            # Several programs are compiled side by side, the first ones run meanwhile.
            compiling = {program: pool.submit(self.run, program, []) for program in new} if len(new) > 1 else {}
            before: tuple[list[int], Any] | None = None
            for program, (_, _, places) in zip(programs, batches, strict=True):
                if program in compiling:
                    compiling.pop(program).result()
                running = self.run(program, [sentences[place] for place in places])
                # A batch is computed while the one before it is read.
                if before is not None:
                    yield before
                before = places, running
            if before is not None:
                yield before

    def choose(self, batches: Sequence[tuple[int, int]]) -> list[Program]:
        """The program of each batch, given its padded length and rows; what is worth it is compiled meanwhile."""
        self._batches.update(batches)
        chosen = {}
        large = [program for program in tuple(self._compiled) if not program.quick]
        for shape in sorted(set(batches), reverse=True):
            quick, own = (Program(*shape, quick) for quick in (True, False))
            fitting = [other for other in large if other.length >= own.length and other.rows >= own.rows]
            padding = {other: self._batches[shape] * (other.length * other.rows - math.prod(shape)) for other in fitting}
            best = min(fitting, key=padding.__getitem__, default=None)
            if own.rows == 1 and quick in self._compiled:
                chosen[shape] = quick  # one sentence takes milliseconds in any program of its own
            elif best is not None:
                chosen[shape] = best
                if padding[best] > WORTH_COMPILING:
                    self._compile_meanwhile(own)
            elif own.rows == 1 or self._batches[shape] <= FEW_BATCHES:
                chosen[shape] = quick
            elif quick in self._compiled:
                chosen[shape] = quick
                self._compile_meanwhile(own)
            else:
                chosen[shape] = own
                large.append(own)
        return [chosen[shape] for shape in batches]

    def _compile_meanwhile(self, program: Program) -> None:
        """Compiles in the background, once."""
        if program not in self._compiling:
            self._compiling[program] = self._background.submit(self.run, program, [])

    def run(self, program: Program, sentences: Sequence[Sequence[str]]) -> tuple[jax.Array, Posteriors]:
        """Tags and posteriors of as many sentences as the program has rows, or fewer; they may still be computed."""
        padded = [*sentences, *[[]] * (program.rows - len(sentences))]
        inputs = self._without_characters.encode(padded, program.length)
        if self._spellings is not None:
            inputs["character_states"] = self._spellings(padded, program.length)
        result = (self._quick if program.quick else self._full)(self._params, jax.tree.map(jnp.asarray, inputs))
        self._compiled.add(program)
        return result


def plan(lengths: Sequence[int], num_tags: int, batch_size: int = ROWS[0]) -> list[tuple[int, int, list[int]]]:
    """The batches in which sentences of these lengths are tagged: few shapes, so that little is compiled.

    Sentences of like length are together, the longest first. Batches have as many rows as are more than half full, of the
    numbers in :data:`ROWS` that :data:`MOST_TOKENS` and :data:`MOST_MOVES` allow at that length: 3 a padded length at most.

    Returns:
      Padded length, rows, and the places in ``lengths`` of as many sentences or fewer; those without tokens are left out.

    Raises:
      ValueError: one is longer than the last of :data:`LENGTHS`.
    """
    order = sorted((place for place, length in enumerate(lengths) if length), key=lambda place: -lengths[place])
    if order and lengths[order[0]] > LENGTHS[-1]:
        raise ValueError(
            f"expected sentences of at most {LENGTHS[-1]:,} tokens, got one of {lengths[order[0]]:,}, number {order[0] + 1}; "
            "cut it: of a text, by a blank line"
        )
    batches = []
    first = 0
    while first < len(order):
        rest = len(order) - first
        length = next(length for length in LENGTHS if length >= lengths[order[first]])
        tokens = min(MOST_TOKENS, MOST_MOVES // num_tags**2)
        most = min(batch_size, 1 << max(tokens // length, 1).bit_length() - 1)
        rows = next(size for size in (min(rows, most) for rows in ROWS) if size < 2 * rest)
        batches.append((length, rows, order[first : first + rows]))
        first += rows
    return batches
