"""Tables, queries and transactions; the only package that speaks SQL."""
