"""Production's own `databaseDrill.references`, against tables like Fragalysis' own: database and media "
"as a pair."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from stack_backup_jobs.formats import Exit
from stack_backup_lab.data import dataset
from stack_backup_lab.render import load_values, merge_values
from stack_backup_lab.runtime.local import LocalRuntime, LocalStack
from stack_backup_lab.story.stacks import MEDIA, STOCK, TEST_MACHINE, VALUES
from tests.jobs.hourly import IMAGE

REFERENCES = load_values(VALUES)["databaseDrill"]["references"]
TABLES = """
SET ROLE fragalysis;
CREATE TABLE viewer_experimentupload (id int PRIMARY KEY, commit_datetime timestamptz, file text);
CREATE TABLE viewer_experiment (
    id int PRIMARY KEY, experiment_upload_id int REFERENCES viewer_experimentupload,
    pdb_info varchar(255), mtz_info varchar(255), map_info varchar(255)[], pdb_info_source_file text);
CREATE TABLE viewer_siteobservation (
    id int PRIMARY KEY, experiment_id int REFERENCES viewer_experiment, code text,
    bound_file varchar(255), apo_file varchar(255), event_file varchar(255), smiles_mol point);
INSERT INTO viewer_experimentupload VALUES
    (1, now() - interval '9 days', 'first.tgz'), (2, now() - interval '1 hour', 'second.tgz');
INSERT INTO viewer_experiment VALUES
    (1, 1, 'target_loader_data/A/x1.pdb', '', ARRAY['target_loader_data/A/m1.ccp4', NULL, 'None'],
     '/elsewhere/x1.pdb'),
    (2, 1, 'target_loader_data/A/x2.pdb', NULL, NULL, NULL),
    (3, 2, 'target_loader_data/A/not mirrored yet.pdb', NULL, NULL, NULL);
INSERT INTO viewer_siteobservation VALUES
    (1, 1, 'A', 'target_loader_data/A/größer "1".pdb', 'target_loader_data/A/x1.pdb', NULL, '(1,2)'),
    (2, NULL, 'virtual', 'computed.mol', NULL, NULL, NULL);
"""
NAMED = {f"target_loader_data/A/{name}" for name in ("x1.pdb", "m1.ccp4", "x2.pdb", 'größer "1".pdb')}


@pytest.fixture(scope="module")
def stack(runtime: LocalRuntime) -> Iterator[LocalStack]:
    with runtime.stack("stack-references-pair", IMAGE) as stack:
        stack.add_claim(MEDIA)
        dataset.fill(stack.database, molecules=0)
        stack.database.execute(TABLES, dataset.DATABASE)
        pair: dict[str, Any] = {**STOCK, "databaseDrill": {"references": REFERENCES}}
        stack.install(merge_values(VALUES, TEST_MACHINE, pair))
        for path in NAMED:
            stack.volume(MEDIA).write(path, b"a file")
        assert stack.run("postgres-backup-hourly").exit_code == 0
        yield stack


def test_every_file_that_the_database_names_is_looked_up(stack: LocalStack) -> None:
    assert stack.run("media-replicator").exit_code == 0
    verdict = stack.run("database-drill").verdict
    assert (verdict["exit"], verdict["references"], verdict["missing"]) == (0, len(NAMED), 0)


def test_what_the_replica_lacks_is_named(stack: LocalStack) -> None:
    replica = stack.volume(stack.claim_of("media-replicator", "media-replica"))
    for path in NAMED:
        replica.remove(path)
    result = stack.run("database-drill")
    assert (result.exit_code, result.verdict["missing"]) == (Exit.DATA, len(NAMED))
    for path in NAMED:
        assert f"Missing in the replica of the media: {path}\n" in result.log
