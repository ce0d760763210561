"""Credit: named turn rewards in, advantages out. The hook is `base.Credit`; one file per key."""
