"""Checks a genre or affect data folder, and prints what it holds and what is wrong with it. Trains nothing.

    mtmusic validate-data data/fma_genre_spectrograms_beat
    mtmusic validate-data data/multitask_dataset_beat --html data.html --json data.json

The command prints a line for each finding, errors first: error or warning, the number of clips, three of these clips,
and what to do.
--schema and --infer-schema need TensorFlow Data Validation (TFDV), which supports Python up to 3.11. Without TFDV,
columns are not compared with a schema, nor between train and test. A line then says so.
The exit code is 0 if nothing was found, 1 if something was found, or 2 if the command cannot run; a message then says
what to do.
"""

import argparse
from dataclasses import replace

from mtmusic.cli import common


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__, __name__)
    flags.add_argument("folder", **common.FOLDER, help="a data folder")
    common.add_classes_flag(flags)
    common.add_beat_flag(flags)
    schemas = flags.add_mutually_exclusive_group()
    schemas.add_argument("--schema", **common.FILE, help="compare with this TFDV schema instead of the lab format's")
    schemas.add_argument(
        "--infer-schema", **common.FILE, help="infer a schema from the train split, write it, and compare with it"
    )
    flags.add_argument("--html", **common.FILE, help="write a page with each column's distribution")
    flags.add_argument("--json", **common.FILE, help="write the findings, with all their clips, as JSON")
    flags.add_argument("--strict", action="store_true", help="report warnings as errors")
    flags.add_argument("--overwrite", action="store_true", help="replace existing files")
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> int:
    from mtmusic.files import refuse_taken

    refuse_taken((arguments.html, arguments.json, arguments.infer_schema), arguments.overwrite)

    from mtmusic.cli.extract_features import refuse_songs
    from mtmusic.datasets.validate import findings_table, validate_folder, write_findings_json, write_findings_page

    refuse_songs(arguments.folder, genres=True)
    found = validate_folder(
        arguments.folder, arguments.classes, arguments.beat, arguments.schema, arguments.infer_schema, arguments.strict
    )
    flags = parser()
    findings = [
        replace(one, message=common.with_flags(one.message, flags), advice=common.with_flags(one.advice, flags))
        for one in found.findings
    ]
    found = replace(found, findings=tuple(findings))
    print(findings_table(found))
    if arguments.infer_schema:
        print(f"Schema: {arguments.infer_schema}")
    if arguments.json:
        write_findings_json(arguments.json, found)
        print(f"Findings: {arguments.json}")
    if arguments.html:
        write_findings_page(arguments.html, found, arguments.command)
        print(f"Page: {arguments.html}")
    return 1 if found.findings else 0
