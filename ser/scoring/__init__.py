"""From held-out speakers to scores.json (stage 5)."""
