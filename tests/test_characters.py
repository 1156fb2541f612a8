"""The reader of characters: words at once against words one by one, what it groups, and where its parameters are."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colnorm import characters as module
from colnorm.characters import CharacterReader, distinct_words

B, T, L = 4, 5, 7
READER = CharacterReader(num_characters=9, features=3, hidden=2)


def draw_words(kinds, longest, seed=0):
    """``(B, T, L)`` characters and ``(B, T)`` lengths of so many kinds of words, one of which has no characters."""
    rng = np.random.default_rng(seed)
    lengths = np.array([0, longest, *rng.integers(1, longest + 1, kinds)])[:kinds]
    words = np.where(np.arange(L) < lengths[:, None], rng.integers(1, 9, (kinds, L)), 0)
    kind = rng.integers(0, kinds, (B, T))
    return jnp.asarray(words[kind], jnp.uint16), jnp.asarray(lengths[kind], jnp.int32)


@pytest.fixture(scope="module")
def variables():
    return jax.jit(READER.init)(jax.random.key(0), *draw_words(3, L))


def test_parameters(variables):
    shapes = jax.tree.map(jnp.shape, variables["params"])
    assert shapes["character_embedding"] == {"embedding": (9, 3)}
    assert shapes["character_lstm"].keys() == {"forward", "backward"}
    assert shapes["character_lstm"]["forward"]["input_kernel"] == (3, 8)


def test_a_shared_scope_keeps_the_parameters_at_the_top(variables):
    class Parent(nn.Module):
        @nn.compact
        def __call__(self, characters, lengths):
            reader = CharacterReader(num_characters=9, features=3, hidden=2)
            nn.share_scope(self, reader)
            return reader(characters, lengths)

    shared = jax.jit(Parent().init)(jax.random.key(0), *draw_words(3, L))
    jax.tree.map(np.testing.assert_array_equal, shared, variables)


@pytest.mark.slow
@pytest.mark.parametrize(("kinds", "longest", "block"), [(2, 1, 256), (5, 2, 3), (6, 4, 8), (20, L, 8)])
def test_words_at_once_are_words_one_by_one(kinds, longest, block, variables, monkeypatch):
    """Values and gradients, in one block and in several, of words a quarter, a half and all of the padded length long."""
    monkeypatch.setattr(module, "BLOCK", block)
    characters, lengths = draw_words(kinds, longest, seed=kinds)
    weights = jnp.asarray(np.random.default_rng(1).standard_normal((B, T, 4)), jnp.float32)

    def states_and_gradient(read):
        def loss(variables):
            states = read(variables)
            return jnp.sum(weights * jnp.sin(states)), states

        gradient, states = jax.jit(jax.grad(loss, has_aux=True))(variables)
        return states, gradient

    words = characters.reshape(B * T, L).astype(jnp.int32)
    states, gradient = states_and_gradient(lambda variables: READER.apply(variables, characters, lengths))
    expected = states_and_gradient(
        lambda variables: READER.apply(variables, words, lengths.reshape(-1), method="read").reshape(B, T, 4)
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), (states, gradient), expected)
    np.testing.assert_array_equal(states[lengths == 0], 0)


def test_distinct_words():
    """The longest first, each a word of its group; 0 fills up."""
    rng = np.random.default_rng(0)
    find = jax.jit(distinct_words)
    for kinds in (1, 3, 8):
        kind = rng.integers(0, kinds, 20)
        characters = rng.integers(0, 3, (kinds, 4)).astype(np.int32)[kind]
        lengths = rng.integers(0, 5, kinds).astype(np.int32)[kind]
        first, group, sorted_lengths = find(jnp.asarray(characters), jnp.asarray(lengths))
        words = np.column_stack([characters, lengths])
        distinct = len({tuple(word) for word in words.tolist()})
        assert len(set(group.tolist())) == distinct == int(group.max()) + 1
        np.testing.assert_array_equal(words[first][group], words)
        np.testing.assert_array_equal(sorted_lengths[:distinct], lengths[first[:distinct]])
        assert np.all(np.diff(sorted_lengths) <= 0)
        np.testing.assert_array_equal(first[distinct:], 0)
        np.testing.assert_array_equal(sorted_lengths[distinct:], 0)
