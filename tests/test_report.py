"""The report of a study: what it says, that strangers' text stays text, and that it is readable when nothing is found."""

import html.parser
import re

import pandas as pd
import pytest
from fake_answers import asked_rows, fake_results, fake_table

from blindspots_lib.figures.findings import KINDS, Finding, Name, all_findings, as_ratio, headlines, left_names, sharing
from blindspots_lib.figures.report import markdown_text, report_paths, short, write_report
from blindspots_lib.figures.tallies import names_called, power_table

HOSTILE = (
    "<script>alert(1)</script> $x$ *b* [l](https://evil.example) \u202eright\u0000 ![i](javascript:x) | <img src=x onerror=1>"
)


def two_models(make_study, changes=None):
    return make_study({"title": "Two models", **(changes or {})})


def found_results(study):
    """The first model omits the guitar, draws cats unasked; both suppress the guitar's family; a copy; a composition."""
    models = [model.name for model in study.models]
    concepts = fake_table(models, [0.02, 0.5, 0.9], ["guitar", "cat", ""])
    asked = asked_rows(models[0], {"guitar": (41, 0.02, 0.5), "cat": (7, 0.5, 0.8)}) + asked_rows(
        models[1], {"cat": (7, 0.5, 0.8)}
    )
    composition = [dict(first="cat", second="guitar", model=models[0], difference=-1.2, low=-2.0, high=-0.5, q=0.01, call="less")]
    captions = ["a guitar"] * 3 + ["a cat"] * 7
    return fake_results(study, concepts, asked=asked, composition=composition, captions=captions, copies=(1, 2))


def sentences(findings):
    return {kind: ["".join(f.sentence) for f in rows] for kind, rows in findings.items()}


def test_findings_are_plain_sentences(make_study):
    study = two_models(make_study)
    first, second = (model.name for model in study.models)
    results = found_results(study)
    said = sentences(all_findings(results, first))
    assert said == {
        "omission": ["Leaves out guitar: asked for in 41 captions, 2 % [0, 8] of the real energy is drawn."],
        "intrusion": ["Adds cat unasked: of 3 captions without it, 0 more pictures show it than real ones do, "
                      "4.0 times [3.0, 5.7] as many."],
        "suppressed": ["Suppresses guitar: 1 concept, shrunken δ 0.07 [0.03, 0.11]."],
        "exaggerated": ["Exaggerates unnamed (concept 2): 1 concept, shrunken δ 0.86 [0.82, 0.90]."],
        "copies": ["Draws 2 real images of 10 again, up to 2 of them of the same picture."],
        "composition": ["Puts cat and guitar together less often than real images do, given how often it draws each: "
                        "odds times 0.3 [0.14, 0.61]."],
    }  # fmt: skip
    assert [f.shared for f in all_findings(results, first)["omission"]] == ["this model alone"]
    assert [f.shared for f in all_findings(results, second)["intrusion"]] == ["both models"]


def test_the_first_lines_take_turns_between_kinds_and_say_nothing_twice():
    rows = {kind: [Finding(kind, [f"{kind} {n}"], word=f"{kind}{n}") for n in range(9)] for kind in KINDS if kind != "copies"}
    rows["suppressed"] = [Finding("suppressed", ["unnamed"]), Finding("suppressed", ["again"], word="omission1"),
                          Finding("suppressed", ["small"], word="small", minor=True),
                          Finding("suppressed", ["gate"], word="gate")]  # fmt: skip
    rows["omission"] = rows["omission"][:2]
    rows["copies"] = [Finding("copies", ["copied"], word="")]
    rows = {kind: rows[kind] for kind in KINDS}
    shown = headlines(rows, n=9)
    assert sentences(shown) == {
        "omission": ["omission 0", "omission 1"], "intrusion": ["intrusion 0", "intrusion 1"], "suppressed": ["gate", "unnamed"],
        "exaggerated": ["exaggerated 0"], "copies": ["copied"], "composition": ["composition 0"],
    }  # fmt: skip


def test_a_name_counts_once_however_many_concepts_have_it(make_study):
    study = two_models(make_study)
    models = [model.name for model in study.models]
    concepts = fake_table(models, [0.02, 0.02, 0.1, 0.9, 0.02], ["sky", "sky", "cat", "sky", ""])
    families = fake_table(models, [0.5, 0.1], ["sky", "cat"], n_concepts=[3, 1])
    counts = names_called(fake_results(study, concepts, families=families))[models[0]]
    assert counts == {"suppressed": {"by concept": 2, "by family": 1}, "exaggerated": {"by concept": 1, "by family": 0}}


def test_a_perfect_generator_shares_no_faults(make_study):
    study = make_study({"models.2": {"name": "perfect", "label": "Perfect", "draws": "afresh"}})
    assert sharing(study, "sd15", {"sd15", "perfect"}) == "this model alone"
    assert sharing(study, "sd15", {"sd15", "pixart"}) == "both models"
    assert sharing(study, "perfect", {"perfect", "pixart"}) == ""


@pytest.mark.parametrize(
    ("deltas", "words"),
    [
        ((0.0, 0.0, 0.2), "0 % [0, 25] of"), ((0.2, 0.01, 0.5), "25 % [1, 100] of"), ((0.75, 0.5, 0.95), "3.0 times [1.0, 19]"),
        ((1.0, 0.9, 1.0), "at least 9.0 times"), ((float("nan"), 0.0, 1.0), "– times [0.0, > 1000]"),
    ],
)  # fmt: skip
def test_delta_is_told_as_generated_over_real(deltas, words):
    assert as_ratio(*deltas) == words


def test_an_intrusion_that_a_surer_one_explains_is_not_said_to_be_added(make_study):
    study = two_models(make_study)
    first = study.models[0].name
    asked = asked_rows(first, {"key": (7, 0.5, 0.95), "cat": (7, 0.5, 0.8)})
    asked[0] |= {"intrusion_call": "explained", "explained_by": "cat"}
    results = fake_results(study, fake_table([first, study.models[1].name], [0.5], ["cat"]), asked=asked)
    (cat,) = sentences(all_findings(results, first))["intrusion"]
    assert cat.startswith("Adds cat unasked")
    page, markdown = written(results)
    for text in (page.text, markdown.replace("*", "")):
        assert "perhaps only taken for these: key (for cat)." in text


def test_power_is_the_median_of_the_losses_that_would_have_been_called():
    asked = pd.DataFrame({"word": ["a", "a", "b", "c"], "n_asked": [12, 12, 19, 600], "detectable": [0.2, 0.0, float("nan"), 0.5],
                          "omission_call": ["unclear", "omitted", "aligned", "aligned"]})  # fmt: skip
    assert power_table(asked) == [  # losses of 0.75 and 1, and one that could not be seen
        {"asked": "10–19", "n_words": 2, "loss": 1.0, "n_unclear": 1, "n": 3},
        {"asked": "500 or more", "n_words": 1, "loss": 0.0, "n_unclear": 0, "n": 1},
    ]


class Page(html.parser.HTMLParser):
    """The tags and the text of a page; a tag that is not closed is an error."""

    VOID = ("meta", "img", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.sources, self.words = [], set(), [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        assert not [name for name, _ in attributes if name.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self):
        return " ".join("".join(self.words).split())


def written(results):
    write_report(results)
    page, markdown, _ = (path.read_text(encoding="utf-8") for path in report_paths(results.study))
    return Page(page), markdown


def test_a_reader_who_opens_no_notebook_gets_the_answer(make_study):
    study = two_models(make_study)
    study.figures_folder.mkdir(parents=True)
    results = found_results(study)
    next(iter(results.images["real"].values())).save(study.figures_folder / "surest.png")
    page, markdown = written(results)
    for text in (page.text, markdown.replace("*", "").replace("\\", "")):
        assert "Controlled replica" in text
        assert "Leaves out guitar: asked for in 41 captions, 2 % [0, 8] of the real energy is drawn. (this model alone)" in text
        assert text.index("Leaves out") < text.index("How sure that is") < text.index("could not be seen")
        assert "not shown" in text
        assert "dead link" in text
        assert "make figures STUDY=smoke" in text
        assert "abc123" in text
    assert all(source.startswith(("data:image/webp;base64,", "#")) for source in page.sources)
    assert sum(source.startswith("data:") for source in page.sources) >= 7  # three findings with a pair each, and the figure
    (link,) = re.findall(r"!\[.*\]\((.*)\)", markdown)
    assert (study.folder / link).resolve() == (study.figures_folder / "surest.png").resolve()
    assert "![" in (study.figures_folder / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("n_models", [1, 2])
def test_a_page_without_findings_says_so(make_study, n_models):
    study = make_study({"replica": False, **({"models.1": ...} if n_models == 1 else {})})
    table = fake_table([model.name for model in study.models], [0.5, 0.45], ["", ""])
    page, markdown = written(fake_results(study, table))
    for text in (page.text, markdown):
        assert text.count("Nothing is called") == n_models
        assert "No word could be held to what captions ask for" in text
        assert "replica" not in text.lower().replace("smoke test", "")
        assert "nan" not in text.lower().split()


def test_strangers_text_is_text_and_nothing_else(make_study):
    study = make_study({"title": HOSTILE[:60], "models.0.label": HOSTILE[:80], "attribution": HOSTILE})
    models = [model.name for model in study.models]
    concepts = fake_table(models, [0.02, 0.9], [HOSTILE, "long " * 2000])
    asked = asked_rows(models[0], {HOSTILE: (5, 0.02, 0.9)})
    page, markdown = written(fake_results(study, concepts, asked=asked, captions=[HOSTILE, "x" * 10_000]))
    assert not page.tags & {"script", "iframe", "object", "form"}
    assert all(source.startswith(("data:", "#")) for source in page.sources)
    assert "<script>alert(1)</script>" in page.text
    assert max(map(len, page.text.split())) < 200
    for text in (page.text, markdown):
        assert "\u202e" not in text
        assert "\u0000" not in text
    assert "<" not in markdown
    assert not re.findall(r"(?<!\\)\]\(", markdown)  # every bracket that would begin a link is escaped


def test_text_for_markdown_and_short_text():
    assert markdown_text("a *b* [c](http://d) <e> & |") == "a \\*b\\* \\[c\\](http&#58;//d) &lt;e&gt; &amp; \\|"
    assert short("a\n\u202eb " + "c" * 300, length=10) == "a b ccccc…"


def test_names_that_the_first_lines_leave_out_are_listed():
    omissions = [Finding("omission", ["Leaves out ", Name(f"word {number}")], word=f"word {number}") for number in range(5)]
    findings = {kind: omissions if kind == "omission" else [] for kind in KINDS}
    left = left_names(findings, headlines(findings, n=4), n=2)
    assert left == {"omission": ["word 4"], "intrusion": [], "suppressed": [], "exaggerated": []}
    assert left_names(findings, {kind: [] for kind in KINDS}, n=2)["omission"] == ["word 0", "word 1"]
