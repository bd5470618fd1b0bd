"""One page of a run: who meets which experts, and what that gives."""
