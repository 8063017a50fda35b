"""The survival loss of all models."""

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

    A case that died in interval k contributes log S(k - 1) + log h(k); a censored case contributes
    (1 - `alpha`) log S(k). The paper's formula has alpha = 0; the code of related models often has 0.5. It is computed
    in log space, so that no probability underflows. The paper writes c = 1 for a censored case; `event` is 1 - c.
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
