"""`cascade top`: what a router tells people, in a terminal."""
