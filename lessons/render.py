"""From Markdown, code and hunks to HTML. Which page is where is Site's business (site.py): `link` asks it."""

import functools
import html
import re

import diagrams
import markdown_it
import pygments.lexers
import pygments.token
import pygments.util
from pygments.token import Token

CONTEXT = 3  # unchanged lines that are shown around a change
FOLD = 8  # so many unchanged lines in a row are folded
SIGNS = {"new": "new", "gone": "gone", "changed": "changed", "moved": "moved", "same": "unchanged"}
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
IMAGE = re.compile(r"<p>(<img [^>]*>)</p>")  # alone in its paragraph
COMMAND = re.compile(r"diff -u ([\w./]+) ([\w./]+)")

# The few classes of the style sheet, and the kinds of Pygments' tokens that get them: the first that fits.
KINDS = [
    (Token.Comment, "c"),
    (Token.Literal.String, "s"),
    (Token.Literal.Number, "n"),
    (Token.Keyword, "k"),
    (Token.Operator.Word, "k"),
    (Token.Name.Decorator, "d"),
    (Token.Name.Function, "f"),
    (Token.Name.Class, "f"),
    (Token.Name.Tag, "k"),
    (Token.Name.Attribute, "f"),
    (Token.Name.Builtin, "b"),
    (Token.Name.Exception, "b"),
    (Token.Generic.Prompt, "p"),
    (Token.Generic.Output, "o"),
    (Token.Generic.Deleted, "del"),
    (Token.Generic.Inserted, "ins"),
]


class Wrong(Exception):
    """Something in the repository of which no page can be made. Its text is one line."""


@functools.cache
def kind_of(token):
    return next((name for kind, name in KINDS if token in kind), "")


def highlight(source, language):
    """The lines of some code, each a list of (class or "", text). Wrong if a lexer should lose some of it."""
    try:
        lexer = pygments.lexers.get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except pygments.util.ClassNotFound:
        raise Wrong(f"no such language: {language}") from None
    lines = [[]]
    for token, text in lexer.get_tokens(f"{source}\n"):  # the lexer of consoles drops a line without a newline
        for number, piece in enumerate(text.split("\n")):
            if number:
                lines.append([])
            if piece:
                lines[-1].append((kind_of(token), piece))
    lines.pop()
    if "\n".join("".join(text for _, text in line) for line in lines) != source:
        raise Wrong(f"the lexer of {language} has lost some of this: {source.partition(chr(10))[0]}")
    return lines


def line_html(tokens, marks=()):
    """A line as HTML; what is in the spans `marks`, (start, end) each, is marked."""
    out, at = [], 0
    edges = sorted(edge for mark in marks for edge in mark)
    marked = False
    for name, text in tokens:
        while text:
            while edges and edges[0] == at:
                marked = not marked
                out.append("<mark>" if marked else "</mark>")
                edges.pop(0)
            size = min(len(text), edges[0] - at) if edges else len(text)
            piece = html.escape(text[:size], quote=False)
            out.append(f'<i class="{name}">{piece}</i>' if name else piece)
            at, text = at + size, text[size:]
    return "".join(out) + ("</mark>" if marked else "")


def slug_of(text, counts):
    """What GitHub calls a heading in links: see anchors() in tests/pages.py. `counts` are those of the page so far."""
    slug = re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-")
    count = counts[slug] = counts.get(slug, -1) + 1
    return f"{slug}-{count}" if count else slug


class Document:
    """A page of Markdown as HTML: `html`, `title`, `toc` of (level, id, text), and `sections` of (id, title, text).

    `link(target, words)` gives what a link to `target` should say in HTML: its attributes; it raises Wrong.
    `deeper` is how much lower the headings are to be, `prefix` stands before their ids.
    """

    def __init__(self, source, name, link, prefix="", deeper=0):
        self.name, self.link, self.prefix, self.deeper = name, link, prefix, deeper
        self.toc, self.sections = [], [["", "", []]]
        self.title = name
        parser = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table")
        parser.renderer.rules["fence"] = self.fence
        tokens = parser.parse(source)
        counts = {}
        for at, token in enumerate(tokens):
            if token.type == "heading_open":
                self.heading(token, tokens[at + 1], counts)
                tokens[at + 2].tag = token.tag
            elif token.type == "html_block":
                token.content = COMMENT.sub("", token.content)
            elif token.type == "inline":
                if tokens[at - 1].type != "heading_open":
                    self.sections[-1][2].append(plain(token))
                token.children = self.inline(token.children)
            elif token.type == "fence" and not token.info.startswith("mermaid"):
                self.sections[-1][2].append(token.content)
        found = parser.renderer.render(tokens, parser.options, {})
        # What may be wider than a phone scrolls by itself, also by keyboard.
        group = 'role="group" tabindex="0"'
        found = found.replace("<table>", f'<div class="scroll" {group} aria-label="Table"><table>')
        found = found.replace("</table>", "</table></div>")
        self.html = IMAGE.sub(rf'<figure class="picture" {group} aria-label="Picture">\1</figure>', found)

    def heading(self, token, inline, counts):
        text = plain(inline)
        anchor = self.prefix + slug_of(text, counts)
        level = int(token.tag[1])
        if level == 1 and self.title == self.name:
            self.title = text
        self.toc.append((level, anchor, text))
        self.sections.append([anchor, text, []])
        token.attrSet("id", anchor)
        token.tag = f"h{min(level + self.deeper, 6)}"

    def inline(self, children):
        out, linked = [], 0
        for token in children:
            linked += token.nesting if token.type in ("link_open", "link_close") else 0
            if token.type == "link_open":
                token.attrs.update(self.link(token.attrs["href"]))
            elif token.type == "image":
                token.attrs.update(self.link(token.attrs["src"], image=True))
            elif token.type == "html_inline":
                token.content = COMMENT.sub("", token.content)
            elif token.type == "code_inline" and not linked and (command := COMMAND.fullmatch(token.content)):
                attrs = self.link(command.groups())
                if attrs:
                    code = f"<code>{html.escape(token.content)}</code>"
                    token.type, token.content = "html_inline", f"<a {attributes(attrs)}>{code}</a>"
            out.append(token)
        return out

    def fence(self, tokens, index, options, env):
        """A block of code: coloured; of a terminal with its name; of mermaid as words."""
        token = tokens[index]
        language, _, rest = token.info.strip().partition(" ")
        if language == "mermaid":
            try:
                return diagrams.diagram(token.content)
            except diagrams.Unknown as error:
                raise Wrong(f"{self.name}: a diagram with a line that is not understood: {error}") from None
        lines = highlight(token.content.rstrip("\n"), language or "text")
        code = "\n".join(line_html(line) for line in lines)
        terminal = re.search(r"(?:^| )in=([\w-]+)", rest)
        caption = f"<figcaption>{terminal[1]}</figcaption>" if terminal else ""
        label = f"terminal {terminal[1]}" if terminal else language or "text"
        return (
            f'<figure class="code {language}">{caption}<pre tabindex="0" role="group" aria-label="{label}">'
            f"<code>{code}</code></pre></figure>\n"
        )


def attributes(attrs):
    return " ".join(f'{name}="{html.escape(str(value))}"' for name, value in attrs.items())


def plain(inline):
    """The words of a token with children."""
    kinds = {"softbreak": " ", "hardbreak": " "}
    return "".join(
        kinds.get(token.type, token.content if token.type in ("text", "code_inline") else "")
        for token in inline.children or ()
    )


def section_of(source, title):
    """A section of a page of Markdown, with its heading, or "" if there is none."""
    lines, level, fenced = [], None, False
    for line in source.splitlines():
        fenced ^= line.lstrip().startswith("```")
        heading = None if fenced else re.match(r"(#+) (.*)", line)
        if heading and level and len(heading[1]) <= level:
            break
        if heading and not level and heading[2] == title:
            level = len(heading[1])
        if level:
            lines.append(line)
    return "\n".join(lines)


# Hunks.


class Diff:
    """The hunks of two versions of a file as HTML. `notes` are {key: HTML}, `prefix` stands before the ids."""

    def __init__(self, hunks, rows, old, new, notes, prefix=""):
        self.hunks, self.rows, self.old, self.new, self.notes, self.prefix = hunks, rows, old, new, notes, prefix

    def view(self, hunk):
        """What a template needs of a hunk."""
        rows = self.rows.get(hunk.key, ())
        return {
            "key": hunk.key,
            "id": self.prefix + hunk.key,
            "state": hunk.state,
            "word": SIGNS[hunk.state],
            "model": hunk.model,
            "folded": not hunk.needs_note,
            "added": sum(row.kind in ("added", "changed", "replaced") for row in rows),
            "removed": sum(row.kind in ("removed", "changed", "replaced") for row in rows),
            "size": len((hunk.new or hunk.old).lines),
            "was": hunk.old.first if hunk.state == "moved" else None,
            "was_key": hunk.old.key if hunk.state == "moved" and hunk.old.key != hunk.key else None,
            "html": self.chunks(hunk, rows) if hunk.needs_note else self.unchanged(hunk),
            "note": self.notes.get(hunk.key),
        }

    def unchanged(self, hunk):
        lines = [
            f'<div class="row one"><code data-o="{hunk.old.first + at}" data-n="{hunk.new.first + at}">'
            f"{line_html(self.new[hunk.new.first + at - 1])}</code></div>"
            for at in range(len(hunk.new.lines))
        ]
        return "".join(lines)

    def chunks(self, hunk, rows):
        """Runs of rows that are the same, folded if they are long, and of rows that are not."""
        out, at = [], 0
        rows = list(rows)
        while at < len(rows):
            same = rows[at].kind == "same"
            end = next((to for to in range(at, len(rows)) if (rows[to].kind == "same") != same), len(rows))
            run = [self.row(row) for row in rows[at:end]]
            if same:
                head, tail = (CONTEXT if at else 1), (CONTEXT if end < len(rows) else 0)
                if len(run) >= FOLD + head + tail:
                    middle = run[head : len(run) - tail]
                    out.append(chunk(run[:head], "same"))
                    out.append(
                        f'<details class="inner"><summary>{len(middle)} unchanged lines of '
                        f"<code>{html.escape(hunk.key)}</code></summary>{chunk(middle, 'same')}</details>"
                    )
                    run = run[len(run) - tail :]
            if run:
                out.append(chunk(run, "same" if same else "differs"))
            at = end
        return "".join(out)

    def row(self, row):
        cells = "".join(
            f'<code class="{side}" data-n="{number}">{line_html(lines[number - 1], marks)}</code>'
            if number
            else f'<code class="{side} none"></code>'
            for side, number, lines, marks in (
                ("old", row.old, self.old, row.words[0]),
                ("new", row.new, self.new, row.words[1]),
            )
        )
        moved = ""
        if row.elsewhere:
            words = f"{'moved from' if row.kind == 'added' else 'moved to'} {html.escape(row.elsewhere)}"
            moved = f'<a href="#{self.prefix}{html.escape(row.elsewhere)}">{words}</a>'
        return row, f'<div class="row {row.kind}{" moved" if moved else ""}">{cells}</div>', moved


def chunk(run, name):
    """Rows that belong together. Above those that have moved stands where to."""
    out, before = [], None
    for row, text, moved in run:
        if moved and (moved != before):
            out.append(f'<div class="where {row.kind}">{moved}</div>')
        before = moved
        out.append(text)
    return f'<div class="chunk {name}">{"".join(out)}</div>'
