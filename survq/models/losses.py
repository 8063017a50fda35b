"""The survival loss that all models share."""

from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid, pad


def nll_by_case(
    logits: Float[Tensor, "case interval"],
    interval: Int[Tensor, " case"],
    event: Bool[Tensor, " case"],
    alpha: float = 0.0,
) -> Float[Tensor, " case"]:
    """Negative log-likelihood of discrete-time survival (section 3.4; Zadeh & Schmid, 2021).

    A case that died in interval k contributes log S(k - 1) + log h(k), a censored one log S(k), less by the share
    `alpha`: the paper's formula is alpha = 0, the code of its kin often has 0.5. In log space, so that no
    probability underflows. The paper writes c = 1 for a censored case; here `event` is its opposite.
    """
    log_survival = logsigmoid(-logits).cumsum(dim=1)  # log S(k) = sum of log(1 - h) up to k
    log_survival_before = pad(log_survival, (1, 0))[:, :-1]
    k = interval.unsqueeze(1)
    died = (log_survival_before + logsigmoid(logits)).gather(1, k).squeeze(1)
    alive = log_survival.gather(1, k).squeeze(1) * (1 - alpha)
    return -died.where(event, alive)


def nll_survival_loss(
    logits: Float[Tensor, "case interval"],
    interval: Int[Tensor, " case"],
    event: Bool[Tensor, " case"],
    alpha: float = 0.0,
) -> Float[Tensor, ""]:
    """The mean over cases."""
    return nll_by_case(logits, interval, event, alpha).mean()
