"""What the characters of words tell: a vector of each word's spelling, and one of where it has capital letters.

A word comes as the code points of its characters, int32 (..., L), filled up with 0. Without a character its vectors are 0.

Shape letters: L characters of a word, N words (all leading axes in one), E width of a character, F width of a word's vector,
K characters that a filter sees.
"""

import keras
import numpy as np
from keras import ops

from zoo.layers.dropout import Dropout
from zoo.layers.forms import LETTER_CASES
from zoo.layers.recurrent import Bidirectional

# Capital and small letters are told apart up to here: Latin, Greek and Cyrillic.
END_OF_CASES = 0x530


class SpelledWords(keras.layers.Layer):
    """Base class: a table of characters, and dropout on what comes of it.

    A code point c has row 1 + c mod `num_characters` of the table, so that no character is unknown.

    Args:
        num_characters: how many rows the table has, besides one that stays unread, for 0.
        character_dim: E.
        hidden_dim: F.
        dropout: rate on the vectors of characters.

    Call: int32 (..., L), and whether dropout is on -> float (..., F).
    """

    def __init__(self, num_characters, character_dim, hidden_dim, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        self.num_characters, self.character_dim, self.hidden_dim = num_characters, character_dim, hidden_dim
        limit = (3.0 / character_dim) ** 0.5  # Ma and Hovy 2016, section 3.1
        self.table = keras.layers.Embedding(
            num_characters + 1, character_dim, embeddings_initializer=keras.initializers.RandomUniform(-limit, limit),
            dtype=self.dtype_policy, name="table",
        )  # fmt: skip
        self.dropped = Dropout(dropout, name="dropout")

    def build(self, input_shape=None):
        self.table.build()

    def call(self, characters, training=False):
        leading, longest = ops.shape(characters)[:-1], ops.shape(characters)[-1]
        points_NL = ops.reshape(characters, (-1, longest))
        real_NL = points_NL > 0
        rows_NL = ops.where(real_NL, 1 + points_NL % self.num_characters, 0)
        x_NLE = self.dropped(self.table(rows_NL), training=training)
        x_NLE = x_NLE * ops.cast(real_NL, x_NLE.dtype)[..., None]
        return ops.reshape(self.words(x_NLE, real_NL), (*leading, self.hidden_dim))

    def words(self, x_NLE, real_NL):
        """float (N, F): the vector of each word, from those of its characters and which of them there are."""
        raise TypeError(f"{type(self).__name__} does not implement words().")


class CharacterCNN(SpelledWords):
    """word = tanh(max over its characters l of (sum over k of x_{l+k} W_k) + b)  (dos Santos and Zadrozny 2014; Ma and Hovy
    2016, section 2.1)

        >>> CharacterCNN(64, 30, 30)(np.array([[99, 97, 116]])).shape
        TensorShape([1, 30])

    Args:
        as `SpelledWords`; F is the number of filters.
        width: K, odd; the characters beside the ends of a word count as 0.
    """

    def __init__(self, num_characters, character_dim, hidden_dim, dropout=0.0, width=3, **kwargs):
        super().__init__(num_characters, character_dim, hidden_dim, dropout, **kwargs)
        self.width = width

    def build(self, input_shape=None):
        super().build()
        shape = (self.width * self.character_dim, self.hidden_dim)
        self.kernel = self.add_weight(shape=shape, initializer="glorot_uniform", name="kernel")
        self.bias = self.add_weight(shape=(self.hidden_dim,), initializer="zeros", name="bias")

    def words(self, x_NLE, real_NL):
        length, beside = ops.shape(x_NLE)[1], self.width // 2
        padded = ops.pad(x_NLE, ((0, 0), (beside, beside), (0, 0)))
        seen = ops.concatenate([padded[:, k : k + length] for k in range(self.width)], axis=-1)
        answers_NLF = ops.matmul(ops.reshape(seen, (-1, seen.shape[-1])), ops.cast(self.kernel, seen.dtype))
        answers_NLF = ops.reshape(answers_NLF, (-1, length, self.hidden_dim))
        # With an initial value a batch without words is not an error.
        highest_NF = ops.max(ops.where(real_NL[..., None], answers_NLF, -1e4), axis=1, initial=-1e4)
        words_NF = ops.tanh(highest_NF + ops.cast(self.bias, seen.dtype))
        return words_NF * ops.cast(ops.any(real_NL, axis=1, keepdims=True), words_NF.dtype)


class CharacterLSTM(SpelledWords):
    """word = [last state from the left ; last state from the right] of an LSTM over its characters (Ling et al. 2015; Lample
    et al. 2016, section 4.1).

        >>> CharacterLSTM(64, 25, 50)(np.array([[99, 97, 116]])).shape
        TensorShape([1, 50])

    Args:
        as `SpelledWords`; F is even, half of it for each direction.
    """

    def __init__(self, num_characters, character_dim, hidden_dim, dropout=0.0, **kwargs):
        super().__init__(num_characters, character_dim, hidden_dim, dropout, **kwargs)
        self.states = Bidirectional(hidden_dim // 2, "lstm", dtype=self.dtype_policy, name="states")

    def build(self, input_shape=None):
        super().build()
        self.states.build((None, None, self.character_dim))

    def words(self, x_NLE, real_NL):
        return self.states(x_NLE, keep=real_NL)[1][0]


class CapitalLetters(keras.layers.Layer):
    """A vector for where a word has capital letters (Collobert et al. 2011, section 3.2.2): nowhere; everywhere; at its front;
    elsewhere.

    Args:
        case_dim: F.

    Call: int32 (..., L) -> float (..., F).

    Example:
        >>> layer = CapitalLetters(4)
        >>> layer.build()
        >>> layer(np.array([[[65, 98], [0, 0]]])).shape  # "Ab", and no word
        TensorShape([1, 2, 4])
    """

    def __init__(self, case_dim, **kwargs):
        super().__init__(**kwargs)
        self.case_dim = case_dim
        letters = [chr(point) for point in range(END_OF_CASES)]
        self.capital = np.array([letter.isupper() for letter in letters])
        self.small = np.array([letter.islower() for letter in letters])

    def build(self, input_shape=None):
        self.table = self.add_weight(shape=(LETTER_CASES, self.case_dim), initializer="random_uniform", name="table")

    def call(self, characters):
        kinds = ops.one_hot(cases(characters, self.capital, self.small), LETTER_CASES, dtype=self.compute_dtype)
        known = ops.cast(ops.any(characters > 0, axis=-1, keepdims=True), self.compute_dtype)
        return ops.matmul(kinds, ops.cast(self.table, self.compute_dtype)) * known


def cases(characters, capital, small):
    """int32 (...): 0 for a word without capital letters, 1 without small ones, 2 with a capital one in front, 3 for all others.

    Args:
        characters: int32 (..., L).
        capital, small: bool (`END_OF_CASES`,), which code points are such letters.
    """
    known = characters < END_OF_CASES
    points = ops.where(known, characters, 0)
    is_capital = ops.logical_and(known, ops.take(capital, points, axis=0))
    is_small = ops.logical_and(known, ops.take(small, points, axis=0))
    mixed = ops.where(is_small[..., 0], 3, 2)
    some = ops.where(ops.any(is_small, axis=-1), mixed, 1)
    return ops.where(ops.any(is_capital, axis=-1), some, 0)
