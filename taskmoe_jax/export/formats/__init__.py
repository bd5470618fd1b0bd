"""What other engines read: a room for each, with its writer and its engine."""
