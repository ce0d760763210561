"""The words of docs/estimators.md, around the tables that `estimators.py` measures."""

from __future__ import annotations

from collections.abc import Callable

from biases import Setting

Wanted = Callable[[Setting], bool]
NOTES: tuple[tuple[str, Wanted, str], ...] = (
    (
        "`grpo`",
        lambda s: s.name == "grpo",
        "every group is divided by its own deviation, so groups that differ little count "
        "more, in large batches too; the direction is exact for one task with two possible "
        "returns",
    ),
    (
        "`lite_ppo`",
        lambda s: s.name == "lite_ppo",
        "the deviation of the batch depends on the episodes that it divides, the less the "
        "larger the batch",
    ),
    (
        "`bnpo`",
        lambda s: s.name == "bnpo",
        "the weight of a group depends on its own mean, in large batches too",
    ),
    (
        "`turn_return`, scale group",
        lambda s: s.config.get("scale") == "group",
        "as `grpo`",
    ),
    (
        "`turn_return`, scale batch",
        lambda s: s.config.get("scale") == "batch",
        "as `lite_ppo`",
    ),
    (
        "gamma 0.8 (`turn_return`, `gae`, `reinforce_pp`)",
        lambda s: s.config.get("gamma") == 0.8,
        "exact for the discounted return-to-go; what differs from the gradient is the future "
        "that the discount hides",
    ),
    (
        "`gae`, lam 0.95",
        lambda s: s.config.get("lam") == 0.95,
        "the weight that lam takes from the return goes to the critic; with the exact critic "
        "any lam is exact",
    ),
    (
        "`gae`, lam 0",
        lambda s: s.config.get("lam") == 0.0,
        "all weight but that of the turn's reward is the critic's",
    ),
    (
        "`gae`, whitened",
        lambda s: s.name == "gae" and s.pooled,
        "mean and deviation contain what they normalise, the less the larger the batch",
    ),
    (
        "`reinforce_pp`, whitened",
        lambda s: s.name == "reinforce_pp" and s.pooled,
        "as `gae`",
    ),
    (
        "`stepwise`",
        lambda s: s.name == "stepwise",
        "one baseline for all turns, which contains the episode's own return: biased where "
        "the return-to-go changes along an episode; without scale, exact for a reward at the "
        "end",
    ),
    (
        "`gigpo`, norm mean",
        lambda s: s.name == "gigpo" and not {"norm", "step_weighted"} & s.config.keys(),
        "the mean over the visits of a state contains the turn's own, and the policy decides "
        "how many visits there are: rare states are shortened most",
    ),
    (
        "`gigpo`, norm mean_std",
        lambda s: s.config.get("norm") == "mean_std",
        "besides, both levels are divided by deviations of their own",
    ),
    (
        "`gigpo`, step-weighted, level of episodes alone",
        lambda s: "step_weighted" in s.config,
        "long episodes count more in the mean: biased where length goes with the return, "
        "exact for one fixed length",
    ),
    (
        "`gdpo`",
        lambda s: s.name == "gdpo",
        "every reward is divided by its own deviation, which changes their weights; the part "
        "that is due to a finite batch goes away",
    ),
    (
        "`igpo`",
        lambda s: s.name == "igpo",
        "process rewards and outcomes are divided by deviations of their own, or by one of "
        "both, and a mean is subtracted once per turn (norm separate does not see a price per "
        "turn at all)",
    ),
    (
        "`tag_group`",
        lambda s: s.name == "tag_group" and "alpha" not in s.config,
        "what a tagged turn earns is compared with its tag and credited to that turn alone",
    ),
    (
        "`tag_group`, alpha 1",
        lambda s: s.config.get("alpha") == 1.0,
        "the process reward is left out; for the outcome it is `grpo`",
    ),
)
"""Who is biased, under what condition; the sizes are filled in."""

TEXT = """# Bias and noise of the credit estimators

What `python benchmarks/estimators.py --write-docs` finds. On problems so small that every episode
can be listed, the policy gradient is known, and so is the mean of each estimator's gradient over
all groups there can be. The estimate is the sum over turns of advantage times score, on-policy and
without clipping, added up over episodes as an `aggregation` of the loss says. Where nothing else is
said that is `seq_mean_token_sum`, the mean over episodes (written *sum* below;
`seq_mean_token_sum_norm` divides it by a constant of the recipe, which changes no direction). **The
default is `token_mean`, with which no estimator here is unbiased where episodes differ in length:**
see "What the aggregation does". Groups have {size} episodes. Figures of batches of two groups are
**exact**, by enumeration of all groups or pairs of groups; only those of batches of {many} groups
are **sampled** ({batches} batches, with `rloo`, `turn_return` and `reinforce` as control variates)
and come with 95 % intervals.

- **scale**: length of the mean estimate along the exact gradient; an optimiser that normalises does
  not see it.
- **bias**: what is left of the mean, divided by scale, minus the exact gradient, in lengths of the
  exact gradient; it is the tangent of the angle between them, and 0 means less than 1e-9.
- **noise**: trace of the covariance, divided by scale squared, relative to the squared length of
  the exact gradient, for a batch of two groups.

| problem | what it is |
|---|---|
{problems}

Only in `words` are actions of several tokens; the first one decides. `gae` gets the exact value of
everything that happened so far, or a wrong critic: an arbitrary function of state and turn. `gdpo`,
`igpo` and `tag_group` are measured where there are two rewards; estimators that discount by the
token are not measured on `words`.

## Unbiased, by aggregation

The first column of biases is why these estimators are called unbiased; the others are what the same
advantages become under an aggregation that divides by lengths. Batches of two groups, exact, the
worst case over the problems.

{unbiased}

## What the aggregation does

`token_mean` divides by the number of sampled tokens of the batch, which was sampled too: what
happens in a batch of long episodes weighs less. With more groups this fades.
{token_mean}

`seq_mean_token_mean` divides every episode by its own length, which no number of groups makes good:
the same return is worth more where it was had in fewer tokens, and a failure is cheaper in more of
them.
{seq_mean}

`seq_mean_token_sum` and `seq_mean_token_sum_norm` divide by what does not depend on what was
sampled, so the bias is the estimator's own. `rloo`, two groups, exact:

{aggregations}

The same with {many} groups, sampled, 95 % intervals:

{aggregations_large}

## What a selection does

A selection drops groups or episodes after their returns are known, so what is left is no longer
what the policy does. Bias of what it leaves, exact, with as many rounds of play as a full batch
needs; a win is a first reward of 1 or more.

- `zero_variance`: for estimators that give a group of equal returns exactly 0 it changes the length
  of the gradient, not its direction; those that credit turns apart (`turn_return`) lose what such
  groups had to say.
- `balanced_difficulty`: groups that are nearly always or never won are left out, so tasks of
  middling difficulty weigh more, and so do the episodes that come in such groups; for one task with
  two returns the direction stays.
- `dynamic_contrastive`: the best against the worst, the short wins against the long failures, is
  another objective:
  {dynamic} in front of `rloo` with groups of {size}.

{selections}

Share of groups of which something is kept:

{kept}

## Biased: when, and by how much

With *sum*.

{notes}

What no direction shows is the factor by which `grpo` multiplies the gradient of a task. It depends
on how hard the task is, and the more so the larger the group (one turn, won or not; exact):

{difficulties}

## The worst case over the problems, exact

{summary}

## Bias on each problem, exact: sum

In brackets: against the gradient of the discounted return-to-go.

{bias}

## Bias on each problem, exact: `token_mean`

{bias_token_mean}

## Bias on each problem, exact: `seq_mean_token_mean`

{bias_seq_mean}

## What a large batch leaves of the bias

For estimators that compare groups, with *sum*: batches of {many} groups, sampled, 95 % intervals.

{large}

## Noise on each problem, exact

{noise}
"""
"""The page, with names in braces for tables and numbers."""
