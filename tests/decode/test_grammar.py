import numpy as np
import pytest

from lprnet_nb.datasets.alphabet import PUBLISHED, Alphabet
from lprnet_nb.decode import compile_grammar, decode, load_grammar, packaged_grammars
from lprnet_nb.errors import ParameterError


def accepts(grammar, text):
    return compile_grammar(load_grammar(grammar), PUBLISHED).accepts(PUBLISHED.encode(text))


@pytest.mark.parametrize(
    "text, ordinary, new_energy, cities",
    [
        ("皖A12345", True, False, True),
        ("皖AB1C23", True, False, True),
        ("皖ABC123", True, False, True),
        ("皖ABCD12", False, False, False),  # three letters in the serial
        ("皖A1234I", False, False, False),  # I and O are not used
        ("皖O12345", False, False, False),
        ("12A3456", False, False, False),
        ("皖A1234", False, False, False),
        ("皖AD12345", False, True, True),  # small
        ("皖AKZ1234", False, True, True),
        ("皖AL12345", False, False, False),  # L drives nothing
        ("皖ADZZ234", False, False, False),
        ("皖A12345F", False, True, True),  # large
        ("皖A12345A", False, False, False),
        ("宁Z12345", True, False, False),  # no such office
        ("粤Z1234A", True, False, True),
    ],
)
def test_packaged_grammars(text, ordinary, new_energy, cities):
    assert accepts("plate-ordinary", text) == ordinary
    assert accepts("plate-new-energy", text) == new_energy
    assert accepts("plate", text) == (ordinary or new_energy)
    assert accepts("plate-cities", text) == cities


def test_all_packaged_grammars_compile_to_small_automata():
    assert packaged_grammars() == ("plate", "plate-cities", "plate-new-energy", "plate-ordinary")
    states = {
        name: len(compile_grammar(load_grammar(name), PUBLISHED).final)
        for name in packaged_grammars()
    }
    assert states == {"plate": 24, "plate-cities": 48, "plate-new-energy": 14, "plate-ordinary": 14}


def test_every_province_has_offices():
    form = load_grammar("plate-cities").forms[0]
    assert sorted(first for first, _ in form.pairs) == sorted(form.slots[0])


def write(folder, text):
    path = folder / "mine.toml"
    path.write_text(text, "utf8")
    return str(path)


def test_a_grammar_of_ones_own(tmp_path):
    path = write(
        tmp_path,
        """
        include = ["plate-new-energy"]
        [sets]
        a = "12"
        [[form]]
        name = "two"
        slots = ["a", "a"]
        limits = [{ set = "a", from = 2, to = 2, at_most = 1 }]
        """,
    )
    assert accepts(path, "12") and accepts(path, "22") and accepts(path, "皖AD12345")
    assert not accepts(path, "皖A12345")
    readings = decode(np.zeros((1, 68, 18), np.float32), decoder=path)
    assert readings.decoder == "mine"
    assert len(readings.texts[0]) in (2, 8)


def test_included_files_lie_beside_the_file(tmp_path):
    write(tmp_path, '[sets]\na = "1"\n[[form]]\nname = "one"\nslots = ["a"]\n')
    other = tmp_path / "other.toml"
    other.write_text('include = ["mine.toml"]', "utf8")
    assert accepts(str(other), "1")


@pytest.mark.parametrize(
    "text, words",
    [
        ("[sets", "not valid TOML"),
        ('colour = "blue"', "colour"),
        ('[[form]]\nslots = ["a"]', "form.0.name"),
        ('[[form]]\nname = "x"\nslots = ["a"]', "the set 'a'.*has: none"),
        ('[sets]\na = "11"', "each character once"),
        ('[sets]\na = ""', "at least one"),
        ('[sets]\na = "1"', "no .*form"),
        ('include = ["nothing"]', "neither a packaged one"),
        ('include = ["mine.toml"]', "includes itself"),
        (
            '[sets]\na = "1"\n[[form]]\nname = "x"\nslots = ["a"]\n'
            'limits = [{ set = "a", from = 1, to = 2, at_most = 1 }]',
            "does not lie within its 1 slots",
        ),
        ('include = ["plate"]\n[pairs]\n"皖A" = "B"', "single characters"),
        ('include = ["plate"]\n[pairs]\n"A" = "B"', "no text fits"),
        (
            '[sets]\na = "学警1"\n[[form]]\nname = "x"\nslots = ["a"]',
            "学警.*special.*cannot be read",
        ),
        (
            '[sets]\na = "x1"\n[[form]]\nname = "x"\nslots = ["a"]',
            "'x', not in the network's class",
        ),
        ('[sets]\na = "-1"\n[[form]]\nname = "x"\nslots = ["a"]', "'-', not in the"),
    ],
)
def test_broken_grammars_say_what_and_where(tmp_path, text, words):
    path = write(tmp_path, text)
    with pytest.raises(ParameterError, match=words) as caught:
        compile_grammar(load_grammar(path), PUBLISHED)
    assert "mine" in str(caught.value)


def test_unknown_names_list_the_known():
    with pytest.raises(ParameterError, match="plate-cities.*plate-ordinary"):
        load_grammar("plaet")
    with pytest.raises(ParameterError, match="greedy, beam, plate"):
        decode(np.zeros((1, 68, 18)), decoder="plaet")
    with pytest.raises(ParameterError, match="neither a packaged one"):
        decode(np.zeros((1, 68, 18)), decoder="plaet.toml")


def test_unknown_options_list_the_known():
    with pytest.raises(ParameterError, match="no option 'width'.*temperature, score"):
        decode(np.zeros((1, 68, 18)), decoder="plate", width=3)
    with pytest.raises(ParameterError, match="score 'best'"):
        decode(np.zeros((1, 68, 18)), decoder="plate", score="best")
    with pytest.raises(ParameterError, match="temperature 0"):
        decode(np.zeros((1, 68, 18)), decoder="plate", temperature=0)


def test_class_list_without_a_province():
    with pytest.raises(ParameterError, match="'皖', not in the network's class list"):
        compile_grammar(
            load_grammar("plate"), Alphabet(tuple(c for c in PUBLISHED.characters if c != "皖"), 66)
        )
