"""Prints of upstream code become log lines."""

import logging

from verl.utils.quiet import prints_to_log


def test_printed_lines_are_logged_whole_and_not_shown(caplog, capsys):
    logger = logging.getLogger("test.quiet")
    with caplog.at_level(logging.INFO, logger="test.quiet"), prints_to_log(logger):
        print("one", end="")
        print(" line")
        print()
        print("without end", end="")
    assert [record.message for record in caplog.records] == ["one line", "without end"]
    assert capsys.readouterr().out == ""
    print("shown")
    assert capsys.readouterr().out == "shown\n"
