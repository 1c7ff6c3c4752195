"""The offline side of the method: train a RECIPE model, evaluate it, compare it."""
