"""Attacks on one proxy while honest clients use it. `classes.py` has what attackers do, `judge.py` what must hold."""
