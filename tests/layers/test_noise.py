import jax
import jax.numpy as jnp
import numpy as np

from taskmoe_jax.layers.noise import Dropout, draw_by_row, rows_at_hand

KEY = jax.random.key(3)


def test_a_row_draws_the_same_wherever_it_stands():
  shape = (6, 4, 5)
  whole = draw_by_row(jax.random.uniform, KEY, shape)
  assert len(np.unique(whole)) == 6 * 4 * 5
  rows = jnp.array([4, 1, 5])
  with rows_at_hand(rows):
    some = draw_by_row(jax.random.uniform, KEY, (3, 4, 5))
  np.testing.assert_array_equal(some, whole[rows])
  # And afterwards all rows are at hand again.
  np.testing.assert_array_equal(
    draw_by_row(jax.random.uniform, KEY, shape), whole
  )


def test_dropout_keeps_the_mean():
  x = jnp.full((40, 2, 5, 50), 2.0)
  dropout = Dropout(0.25)
  y = dropout.apply({}, x, train=True, rngs={"dropout": KEY})
  kept = np.asarray(y) != 0
  np.testing.assert_allclose(y[kept], 2 / 0.75, rtol=1e-6)
  # 4,000 coins: four standard deviations are 0.027.
  assert abs(kept.mean() - 0.75) < 0.03
  # Tossed for all positions of a row, and for each row anew.
  assert (kept == kept[:, :, :1]).all()
  assert len(np.unique(kept[:, :, 0].reshape(80, 50), axis=0)) == 80
  assert dropout.apply({}, x, train=False) is x
  assert Dropout(0.0).apply({}, x, train=True) is x


def test_dropout_in_bfloat16():
  y = Dropout(0.5).apply(
    {}, jnp.ones((2, 4, 3), jnp.bfloat16), train=True, rngs={"dropout": KEY}
  )
  assert y.dtype == jnp.bfloat16
  assert set(np.unique(y.astype(jnp.float32))) <= {0.0, 2.0}
