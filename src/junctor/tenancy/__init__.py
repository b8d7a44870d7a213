"""Keys, teams, budgets, limits, admission, and where they are kept."""
