"""The check of the shaders that needs no Mac: clang's front end, Metal's address spaces, a lint and Metal's limits."""
