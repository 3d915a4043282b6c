"""A page in the browser: two models answer the same text, token by token, with their times."""
