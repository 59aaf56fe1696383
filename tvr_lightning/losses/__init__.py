"""Loss terms as free functions, each named as its paper names it."""
