"""Policy losses: log-probabilities and advantages in, a loss per token out. The hook is
`base.PolicyLoss`.
"""
