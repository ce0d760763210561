"""Regularizers: terms beside the policy loss. The hook is `base.Regularizer`; one file per key."""
