"""Prints docs/configuration.md: the table of settings that config.py holds, with a word of introduction."""

from headrace import config

INTRODUCTION = """# Configuration

Written from `python/headrace/config.py` by `make docs`; change it there.

A value comes from a TOML file (`--config FILE` or `HEADRACE_CONFIG`), from the environment, or from a flag; the later
wins. Sizes are bytes and take KiB, MiB and GiB. "When full" is what a caller sees: a status of gRPC and one of HTTP.
What a model's own `config.pbtxt` says is in [operating](operating.md).
"""


def table() -> str:
    """The table of all options, a section for each group."""
    lines: list[str] = []
    for title in dict.fromkeys(option.group for option in config.OPTIONS):
        lines += [
            f"## {title}",
            "",
            "| flag | file and environment | default | values | meaning | when full |",
            "|---|---|---|---|---|---|",
        ]
        for o in config.OPTIONS:
            if o.group == title:
                names = f"`{o.flag}` | `{o.name}`, `{o.variable}`"
                lines.append(f"| {names} | {o.default_text} | {o.range_text} | {o.help} | {o.full} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(INTRODUCTION)
    print(table().rstrip())
