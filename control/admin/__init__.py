"""What an operator can ask a running control plane."""
