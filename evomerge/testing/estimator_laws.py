"""What every estimator must keep: one function per law, each taking the estimator's class.

```python
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_my_estimator(law):
    law(MyEstimator)
```
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import special

from evomerge.errors import ConfigError, EstimatorError
from evomerge.estimators.base import Estimator, Responses, Scores
from evomerge.testing.expecting import refused

Law = Callable[[type[Estimator]], None]

_MODELS, _COMPLETE, _ITEMS, _ENDPOINTS = 36, 18, 90, 3


def complete_models_have_their_own_mean(estimator: type[Estimator]) -> None:
    """There is nothing to estimate of a model that answered every item: its mean, without an error."""
    responses, _ = simulated(0)
    found = estimator({}).estimate(responses, range(_COMPLETE))
    assert np.allclose(found.values, responses.scores[:_COMPLETE].mean(axis=1), rtol=0, atol=1e-12)
    assert np.array_equal(found.errors, np.zeros(_COMPLETE))


def estimates_are_finite_and_never_certain(estimator: type[Estimator]) -> None:
    """A model that lacks answers has an estimate and a positive error, also if all that it answered is right."""
    responses, _ = simulated(1)
    scores = responses.scores.copy()
    scores[-1, np.isfinite(scores[-1])] = 1.0
    scores[-2, np.isfinite(scores[-2])] = 0.0
    found = estimator({}).estimate(_with(responses, scores), range(_COMPLETE, _MODELS))
    assert found.values.shape == found.errors.shape == (_MODELS - _COMPLETE,)
    assert np.isfinite(found.values).all()
    assert np.isfinite(found.errors).all()
    assert (found.errors > 0).all()


def models_have_no_order(estimator: type[Estimator]) -> None:
    """Models in another order have the same estimates."""
    responses, _ = simulated(2)
    order = np.random.default_rng(0).permutation(_MODELS)
    place = np.argsort(order)
    turned = responses.of([*order])
    found = estimator({}).estimate(responses, range(_MODELS))
    again = estimator({}).estimate(turned, [*place])
    assert np.allclose(found.values, again.values, atol=1e-6)
    assert np.allclose(found.errors, again.errors, atol=1e-6)


def items_have_no_order(estimator: type[Estimator]) -> None:
    """Items in another order, the same for all models, lead to the same estimates."""
    responses, _ = simulated(3)
    order = np.random.default_rng(1).permutation(_ITEMS)
    found = estimator({}).estimate(responses, range(_MODELS))
    again = estimator({}).estimate(_with(responses, responses.scores[:, order]), range(_MODELS))
    assert np.allclose(found.values, again.values, atol=1e-6)
    assert np.allclose(found.errors, again.errors, atol=1e-6)


def units_do_not_matter(estimator: type[Estimator]) -> None:
    """Scores that are a quarter as large have estimates and errors a quarter as large."""
    responses, _ = simulated(4)
    found = estimator({}).estimate(responses, range(_MODELS))
    again = estimator({}).estimate(_with(responses, responses.scores / 4), range(_MODELS))
    assert np.allclose(found.values, 4 * again.values, atol=1e-6)
    assert np.allclose(found.errors, 4 * again.errors, atol=1e-6)


def estimates_the_same_again(estimator: type[Estimator]) -> None:
    """An estimate depends on the responses alone: not on earlier questions, nor on which instance is asked."""
    one = estimator({})
    situations = [simulated(seed)[0] for seed in (5, 6)]
    first = [one.estimate(responses, range(_MODELS)) for responses in situations]
    again = [one.estimate(responses, range(_MODELS)) for responses in reversed(situations)][::-1]
    fresh = [estimator({}).estimate(responses, range(_MODELS)) for responses in situations]
    for a, b, c in zip(first, again, fresh, strict=True):
        assert np.array_equal(a.values, b.values)
        assert np.array_equal(a.values, c.values)
        assert np.array_equal(a.errors, b.errors)
        assert np.array_equal(a.errors, c.errors)


def errors_are_what_they_say(estimator: type[Estimator]) -> None:
    """On simulated responses, true means lie within two standard errors about as often as they should."""
    standard = []
    for seed in range(10, 22):
        responses, truths = simulated(seed)
        rows = range(_COMPLETE, _MODELS)
        found = estimator({}).estimate(responses, rows)
        standard.append((found.values - truths[_COMPLETE:]) / found.errors)
    z = np.concatenate(standard)
    assert np.mean(np.abs(z) < 1.96) > 0.88, f"only {np.mean(np.abs(z) < 1.96):.2f} of the intervals hold the truth"
    assert np.sqrt(np.mean(z**2)) > 0.5, "errors are stated at more than twice what they are"


def better_than_chance(estimator: type[Estimator]) -> None:
    """Estimates order models as their true means do, more often than not by far."""
    responses, truths = simulated(7)
    rows = range(_COMPLETE, _MODELS)
    found = estimator({}).estimate(responses, rows).values
    assert np.corrcoef(found, truths[_COMPLETE:])[0, 1] > 0.6


def leaves_its_arguments_alone(estimator: type[Estimator]) -> None:
    """Responses are read only."""
    responses, _ = simulated(8)
    responses.scores.setflags(write=False)
    estimator({}).estimate(responses, range(_MODELS))


def says_when_too_few_have_answered(estimator: type[Estimator]) -> None:
    """Where nobody answered everything it estimates all the same, or says what it lacks."""
    responses, _ = simulated(9)
    few = responses.of(range(_COMPLETE, _MODELS))
    try:
        found = estimator({}).estimate(few, range(_MODELS - _COMPLETE))
    except EstimatorError as error:
        message = str(error)
    else:
        assert np.isfinite(found.values).all()
        return
    assert "needs" in message


def refuses_options_that_it_does_not_have(estimator: type[Estimator]) -> None:
    """A misspelt option is an error that names it."""
    refused(ConfigError, "no_such_option", estimator, {"no_such_option": 1})


LAWS: tuple[Law, ...] = (
    complete_models_have_their_own_mean,
    estimates_are_finite_and_never_certain,
    models_have_no_order,
    items_have_no_order,
    units_do_not_matter,
    estimates_the_same_again,
    errors_are_what_they_say,
    better_than_chance,
    leaves_its_arguments_alone,
    says_when_too_few_have_answered,
    refuses_options_that_it_does_not_have,
)


def drawn(generator: np.random.Generator) -> Scores:
    """What `simulated` draws first: every model's responses to every item, (models, items)."""
    abilities = generator.normal(0.3, 0.8, _MODELS)
    slopes, difficulties = np.exp(generator.normal(0, 0.3, _ITEMS)), generator.normal(0, 1.2, _ITEMS)
    shares = special.expit(np.outer(abilities, slopes) - difficulties)
    return np.asarray(generator.random(shares.shape) < shares, dtype=np.float64)


def simulated(seed: int) -> tuple[Responses, Scores]:
    """Responses by a two-parameter logistic model, half of the models with a third of the items; and true means.

    Returns: the responses, whose first rows are the endpoints; and each model's mean over all items, (models,).
    """
    generator = np.random.default_rng(seed)
    scores = drawn(generator)
    truths = scores.mean(axis=1)
    hidden = generator.permutation(_ITEMS)[_ITEMS // 3 :]
    scores[_COMPLETE:, hidden] = np.nan
    return Responses(scores=scores, endpoints=tuple(range(_ENDPOINTS))), truths


def _with(responses: Responses, scores: Scores) -> Responses:
    return Responses(scores=scores, covariates=responses.covariates, endpoints=responses.endpoints)
