from ringworld.core.errors import not_a_choice


def test_the_nearest_choice_is_suggested_where_one_is_near():
    near = not_a_choice("command", "trian", choices=("prepare", "train"))
    assert str(near) == "command: got 'trian', expected one of prepare, train. Did you mean train?"
    assert not_a_choice("command", "xyzzy", choices=("prepare", "train")).remedy == "Choose one of these."
