"""How many workers a traffic needs, from a measured batch curve; see `answer` for the way from one to the other. Nothing here imports torch but
`measure`."""
