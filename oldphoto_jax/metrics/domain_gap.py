"""How far two kinds of photos, or their latents, lie apart."""

import numpy as np
from scipy import linalg, optimize

FOLDS = 5
PENALTY = 30.0  # on the squared weights of the classifier, whose inputs have deviation 1


def told_apart(described: list[np.ndarray], owners: list[np.ndarray]) -> float:
  """Mean of the shares of two kinds told rightly, on folds of photos that were not learnt from.

  Logistic regression in which both kinds count the same. 0.5 is chance, 1 is sure.

  Args:
    described: of each kind, a row of features for each example, float [n, features].
    owners: of each kind, the photo that each example is of, int [n].
  """
  x = np.concatenate(described)
  y = np.concatenate([np.full(len(kind), sign) for kind, sign in zip(described, (1.0, -1.0))])
  fold = np.concatenate(owners) % FOLDS
  right = np.zeros(len(y), bool)
  for k in range(FOLDS):
    learnt, asked = fold != k, fold == k
    centre, deviation = x[learnt].mean(0), x[learnt].std(0) + 1e-6
    known = (x[learnt] - centre) / deviation
    weight = np.where(y[learnt] > 0, 1 / (y[learnt] > 0).sum(), 1 / (y[learnt] < 0).sum())

    def loss(w, known=known, y=y[learnt], weight=weight):
      margin = y * (known @ w[:-1] + w[-1])
      slope = -y * weight / (1 + np.exp(margin))
      gradient = np.append(known.T @ slope, slope.sum()) + 2 * PENALTY / len(y) * np.append(
        w[:-1], 0
      )
      return (weight * np.logaddexp(0, -margin)).sum() + PENALTY / len(y) * (
        w[:-1] ** 2
      ).sum(), gradient

    w = optimize.minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method='L-BFGS-B').x
    right[asked] = ((x[asked] - centre) / deviation @ w[:-1] + w[-1] > 0) == (y[asked] > 0)
  return float(np.mean([right[y > 0].mean(), right[y < 0].mean()]))


def frechet(a: np.ndarray, b: np.ndarray) -> float:
  """The Fréchet distance of two kinds of vectors, each taken as normal (Heusel et al. 2017).

  |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), divided by tr((C_a + C_b) / 2), so that spaces
  of other scales can be compared. 0 where mean m and covariance C are the same.

  Args:
    a, b: float [n, features], many more rows than features.
  """
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
  # (C_a C_b)^(1/2) has the trace of (C_a^(1/2) C_b C_a^(1/2))^(1/2), which is symmetric.
  root = _root(first)
  cross = np.trace(_root(root @ second @ root))
  spread = np.trace(first) + np.trace(second)
  apart = ((a.mean(0) - b.mean(0)) ** 2).sum() + spread - 2 * cross
  return float(max(apart, 0) / (spread / 2))


def _root(matrix: np.ndarray) -> np.ndarray:
  """The square root of a symmetric matrix without negative eigenvalues."""
  values, vectors = linalg.eigh(matrix)
  return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
