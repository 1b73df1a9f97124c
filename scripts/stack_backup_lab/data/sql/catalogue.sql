-- All that makes up the current database besides its rows, and all that belongs to the whole server, as
-- (aspect, object, value), every name written out and no object identifier in any value, so that two servers give
-- the same answer exactly when one is a faithful copy of the other. It is read with an empty search path, so
-- that every name comes out qualified. 16384 is where the identifiers of objects that initdb did not make begin.
WITH
relation AS (
    SELECT c.*, pg_describe_object('pg_class'::regclass, c.oid, 0) AS title
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid >= 16384 AND n.nspname !~ '^pg_(toast|temp)'
),
privileges (classid, objid, subid, granted, usual) AS (
    SELECT 'pg_class'::regclass, oid, 0, relacl,
        acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner)
    FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
    UNION ALL SELECT 'pg_class'::regclass, attrelid, attnum, attacl, '{}'
    FROM pg_attribute WHERE attacl IS NOT NULL
    UNION ALL SELECT 'pg_proc'::regclass, oid, 0, proacl, acldefault('f', proowner) FROM pg_proc
    UNION ALL SELECT 'pg_type'::regclass, oid, 0, typacl, acldefault('T', typowner)
    FROM pg_type WHERE typtype IN ('b', 'd', 'e', 'r') AND typcategory <> 'A'
    UNION ALL SELECT 'pg_namespace'::regclass, oid, 0, nspacl, acldefault('n', nspowner)
    FROM pg_namespace WHERE nspname !~ '^pg_(toast|temp)'
    UNION ALL SELECT 'pg_language'::regclass, oid, 0, lanacl, acldefault('l', lanowner) FROM pg_language
    UNION ALL SELECT 'pg_largeobject'::regclass, oid, 0, lomacl, acldefault('L', lomowner)
    FROM pg_largeobject_metadata
    UNION ALL SELECT 'pg_foreign_data_wrapper'::regclass, oid, 0, fdwacl, acldefault('F', fdwowner)
    FROM pg_foreign_data_wrapper
    UNION ALL SELECT 'pg_foreign_server'::regclass, oid, 0, srvacl, acldefault('S', srvowner) FROM pg_foreign_server
    UNION ALL SELECT 'pg_database'::regclass, oid, 0, datacl, acldefault('d', datdba) FROM pg_database
    UNION ALL SELECT 'pg_tablespace'::regclass, oid, 0, spcacl, acldefault('t', spcowner) FROM pg_tablespace
    UNION ALL SELECT 'pg_parameter_acl'::regclass, oid, 0, paracl, '{}' FROM pg_parameter_acl
    UNION ALL SELECT 'pg_default_acl'::regclass, oid, 0, defaclacl, '{}' FROM pg_default_acl
),
-- Kinds of objects that a web application hardly has: that they are there is compared, and their comments,
-- owners and privileges.
rare (classid, objid) AS (
    SELECT 'pg_cast'::regclass, oid FROM pg_cast
    UNION ALL SELECT 'pg_operator'::regclass, oid FROM pg_operator
    UNION ALL SELECT 'pg_opclass'::regclass, oid FROM pg_opclass
    UNION ALL SELECT 'pg_opfamily'::regclass, oid FROM pg_opfamily
    UNION ALL SELECT 'pg_collation'::regclass, oid FROM pg_collation
    UNION ALL SELECT 'pg_conversion'::regclass, oid FROM pg_conversion
    UNION ALL SELECT 'pg_ts_config'::regclass, oid FROM pg_ts_config
    UNION ALL SELECT 'pg_ts_dict'::regclass, oid FROM pg_ts_dict
    UNION ALL SELECT 'pg_language'::regclass, oid FROM pg_language
    UNION ALL SELECT 'pg_am'::regclass, oid FROM pg_am
    UNION ALL SELECT 'pg_transform'::regclass, oid FROM pg_transform
    UNION ALL SELECT 'pg_foreign_data_wrapper'::regclass, oid FROM pg_foreign_data_wrapper
    UNION ALL SELECT 'pg_foreign_server'::regclass, oid FROM pg_foreign_server
    UNION ALL SELECT 'pg_user_mapping'::regclass, oid FROM pg_user_mapping
    UNION ALL SELECT 'pg_event_trigger'::regclass, oid FROM pg_event_trigger
    UNION ALL SELECT 'pg_publication'::regclass, oid FROM pg_publication
    UNION ALL SELECT 'pg_tablespace'::regclass, oid FROM pg_tablespace
    UNION ALL SELECT 'pg_namespace'::regclass, oid FROM pg_namespace WHERE nspname !~ '^pg_(toast|temp)'
)

-- Relations, their columns, indexes and constraints
SELECT 'definition' AS aspect, r.title AS object, jsonb_build_object(
    'kind', r.relkind, 'persistence', r.relpersistence, 'filled', r.relispopulated,
    'method', (SELECT amname FROM pg_am WHERE oid = r.relam),
    'tablespace', (SELECT spcname FROM pg_tablespace WHERE oid = r.reltablespace),
    'options', r.reloptions,
    'toast options', (SELECT reloptions FROM pg_class WHERE oid = r.reltoastrelid),
    'row security', r.relrowsecurity, 'forced', r.relforcerowsecurity, 'replica identity', r.relreplident,
    'partition key', CASE r.relkind WHEN 'p' THEN pg_get_partkeydef(r.oid) END,
    'partition bound', pg_get_expr(r.relpartbound, r.oid),
    'inherits', ARRAY(SELECT inhparent::regclass::text FROM pg_inherits WHERE inhrelid = r.oid ORDER BY inhseqno),
    'query', CASE WHEN r.relkind IN ('v', 'm') THEN pg_get_viewdef(r.oid) END
)::text AS value
FROM relation r WHERE r.relkind NOT IN ('i', 'I')
UNION ALL
SELECT 'definition', pg_describe_object('pg_class'::regclass, r.oid, a.attnum), jsonb_build_object(
    'position', row_number() OVER (PARTITION BY r.oid ORDER BY a.attnum),
    'type', format_type(a.atttypid, a.atttypmod), 'not null', a.attnotnull,
    'default', pg_get_expr(d.adbin, d.adrelid), 'identity', a.attidentity, 'generated', a.attgenerated,
    'collation', a.attcollation::regcollation, 'storage', a.attstorage, 'compression', a.attcompression,
    'statistics', a.attstattarget,
    -- Since 15.20 the server keeps a mark of its own among the options, which no dump carries.
    'options', ARRAY(SELECT o FROM unnest(a.attoptions) o WHERE o !~ '^pg_attver=' ORDER BY 1)
)::text
FROM relation r
JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = r.oid AND d.adnum = a.attnum
WHERE r.relkind NOT IN ('i', 'I', 'S')
UNION ALL
SELECT 'definition', r.title, jsonb_build_object(
    'definition', pg_get_indexdef(r.oid), 'options', r.reloptions, 'valid', i.indisvalid,
    'clustered', i.indisclustered, 'replica identity', i.indisreplident
)::text
FROM relation r JOIN pg_index i ON i.indexrelid = r.oid
UNION ALL
SELECT 'definition', pg_describe_object('pg_constraint'::regclass, oid, 0), pg_get_constraintdef(oid)
FROM pg_constraint WHERE oid >= 16384 AND conparentid = 0
UNION ALL
SELECT 'definition', pg_describe_object('pg_trigger'::regclass, oid, 0),
    pg_get_triggerdef(oid) || ' -- ' || tgenabled::text
FROM pg_trigger WHERE NOT tgisinternal AND tgparentid = 0
UNION ALL
SELECT 'definition', pg_describe_object('pg_rewrite'::regclass, oid, 0),
    pg_get_ruledef(oid) || ' -- ' || ev_enabled::text
FROM pg_rewrite WHERE oid >= 16384
UNION ALL
SELECT 'definition', pg_describe_object('pg_policy'::regclass, oid, 0), jsonb_build_object(
    'command', polcmd, 'permissive', polpermissive, 'using', pg_get_expr(polqual, polrelid),
    'check', pg_get_expr(polwithcheck, polrelid),
    'roles', ARRAY(SELECT CASE o WHEN 0 THEN 'public' ELSE pg_get_userbyid(o) END FROM unnest(polroles) o ORDER BY 1)
)::text
FROM pg_policy
UNION ALL
SELECT 'definition', pg_describe_object('pg_statistic_ext'::regclass, oid, 0), pg_get_statisticsobjdef(oid)
FROM pg_statistic_ext
UNION ALL
SELECT 'parameters', 'sequence ' || s.seqrelid::regclass,
    (to_jsonb(s) - 'seqrelid' - 'seqtypid')::text || ' ' || format_type(s.seqtypid, NULL)
FROM pg_sequence s
UNION ALL
SELECT 'column that owns it', 'sequence ' || d.objid::regclass, pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid)
FROM pg_depend d JOIN relation r ON r.oid = d.objid AND r.relkind = 'S'
WHERE d.classid = 'pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')

-- Functions, types, extensions, the rest of the schema
UNION ALL
SELECT 'definition', pg_describe_object('pg_proc'::regclass, oid, 0), pg_get_functiondef(oid)
FROM pg_proc WHERE oid >= 16384 AND prokind <> 'a'
UNION ALL
SELECT 'definition', pg_describe_object('pg_proc'::regclass, p.oid, 0), jsonb_build_object(
    'step', a.aggtransfn, 'final', a.aggfinalfn, 'combine', a.aggcombinefn,
    'state', a.aggtranstype::regtype, 'initial', a.agginitval
)::text
FROM pg_proc p JOIN pg_aggregate a ON a.aggfnoid = p.oid WHERE p.oid >= 16384
UNION ALL
SELECT 'definition', pg_describe_object('pg_type'::regclass, t.oid, 0), jsonb_build_object(
    'kind', t.typtype, 'not null', t.typnotnull, 'default', t.typdefault,
    'base', CASE t.typtype WHEN 'd' THEN format_type(t.typbasetype, t.typtypmod) END,
    'labels', ARRAY(SELECT enumlabel FROM pg_enum WHERE enumtypid = t.oid ORDER BY enumsortorder),
    'range of', (SELECT rngsubtype::regtype FROM pg_range WHERE rngtypid = t.oid)
)::text
FROM pg_type t WHERE t.oid >= 16384 AND t.typtype <> 'c' AND t.typcategory <> 'A'
UNION ALL
SELECT 'definition', 'extension ' || extname, jsonb_build_object(
    'version', extversion, 'schema', extnamespace::regnamespace,
    'tables', ARRAY(SELECT o::regclass::text FROM unnest(extconfig) o), 'conditions', extcondition
)::text
FROM pg_extension
UNION ALL
SELECT 'existence', pg_describe_object(classid, objid, 0), 'there' FROM rare WHERE objid >= 16384
UNION ALL
SELECT 'content', 'large object ' || oid,
    length(lo_get(oid)) || ' bytes, sha256 ' || encode(sha256(lo_get(oid)), 'hex')
FROM pg_largeobject_metadata

-- What any object may have. Those of the bootstrap superuser have no owner here, on either server.
UNION ALL
SELECT 'owner', pg_describe_object(classid, objid, objsubid), pg_get_userbyid(refobjid)
FROM pg_shdepend
WHERE deptype = 'o' AND refclassid = 'pg_authid'::regclass
    AND dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
UNION ALL
SELECT 'privileges', pg_describe_object(classid, objid, subid),
    ARRAY(SELECT item::text FROM unnest(coalesce(granted, usual)) item ORDER BY 1)::text
FROM privileges WHERE objid >= 16384 OR granted IS NOT NULL
UNION ALL
SELECT 'comment', pg_describe_object(classoid, objoid, objsubid), description
FROM pg_description
WHERE objoid >= 16384 OR classoid IN ('pg_namespace'::regclass, 'pg_language'::regclass, 'pg_extension'::regclass)
UNION ALL
SELECT 'comment', pg_describe_object(classoid, objoid, 0), description FROM pg_shdescription
UNION ALL
SELECT 'security label', objtype || ' ' || objname, provider || ': ' || label FROM pg_seclabels

-- The server: databases, roles, settings
UNION ALL
SELECT 'definition', 'database ' || datname,
    (to_jsonb(d) - ARRAY['oid', 'datname', 'datdba', 'datacl', 'dattablespace', 'datfrozenxid', 'datminmxid',
        'datlastsysoid'])::text
    || ' ' || (SELECT spcname FROM pg_tablespace WHERE oid = d.dattablespace)
FROM pg_database d
UNION ALL
SELECT 'attributes', 'role ' || rolname, (to_jsonb(r) - ARRAY['oid', 'rolname', 'rolpassword'])::text FROM pg_authid r
UNION ALL
-- A digest, because differences are printed and a verifier is as good as a secret.
SELECT 'password', 'role ' || rolname,
    'sha256 of its verifier: ' || encode(sha256(convert_to(rolpassword, 'UTF8')), 'hex')
FROM pg_authid WHERE rolpassword IS NOT NULL
UNION ALL
SELECT 'membership', pg_get_userbyid(member) || ' in ' || pg_get_userbyid(roleid),
    (to_jsonb(m) - ARRAY['oid', 'roleid', 'member', 'grantor'])::text || ' by ' || pg_get_userbyid(grantor)
FROM pg_auth_members m
UNION ALL
SELECT 'settings', concat_ws(' in ',
        CASE WHEN setrole <> 0 THEN 'role ' || pg_get_userbyid(setrole) END,
        (SELECT 'database ' || datname FROM pg_database WHERE oid = setdatabase)),
    ARRAY(SELECT line FROM unnest(setconfig) line ORDER BY 1)::text
FROM pg_db_role_setting
