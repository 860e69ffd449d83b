#!/bin/sh
# A project of three lines: the loss is a bowl around LR = 0.3, printed with its name.
set -eu
cat > train.py <<'PY'
LR = 0.1  # learning rate
loss = (LR - 0.3) ** 2 + 1.0
print(f"val_loss: {loss:.6f}")
PY
git init -q
git add train.py
git -c user.name=eval -c user.email=eval@localhost commit -q -m "a toy"
