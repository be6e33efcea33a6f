"""The edit distance of two strings, a machine word of cells at a time."""


def edit_distance(one: str, other: str) -> int:
    """Fewest insertions, deletions and substitutions of a character that turn one into the other (Levenshtein).

    A column of the dynamic programme is kept as two integers, which hold where it rises and falls by one from cell to
    cell, and is moved by bit operations on all cells together. Source: Myers 1999, in Hyyrö's 2003 form.
    """
    if len(one) < len(other):
        one, other = other, one
    if not other:
        return len(one)
    everywhere, last = (1 << len(one)) - 1, 1 << (len(one) - 1)
    places: dict[str, int] = {}  # character -> where `one` has it
    for place, character in enumerate(one):
        places[character] = places.get(character, 0) | 1 << place
    rises, falls, distance = everywhere, 0, len(one)
    for character in other:
        equal = places.get(character, 0)
        diagonal = (((equal & rises) + rises) ^ rises) | equal | falls
        right_rises, right_falls = falls | ~(diagonal | rises), rises & diagonal
        if right_rises & last:
            distance += 1
        elif right_falls & last:
            distance -= 1
        right_rises, right_falls = right_rises << 1 | 1, right_falls << 1
        rises = (right_falls | ~(diagonal | right_rises)) & everywhere
        falls = right_rises & diagonal & everywhere
    return distance
