-- What the database holds, as the lines of a manifest; :database is its name there. Each count is asked for by a
-- statement of its own. The tables of an extension hold its own rows, too, which a dump leaves out.
SET search_path = pg_catalog;
SET standard_conforming_strings = on;

WITH relation AS (
  SELECT relkind, format('%I.%I', nspname, relname) AS name, EXISTS (
    SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND deptype = 'e') AS member
  FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
  WHERE relkind IN ('r', 'S') AND relpersistence <> 't' AND nspname !~ '^pg_' AND nspname <> 'information_schema'
), line (key, name, rest) AS (
  SELECT CASE WHEN member THEN 'member' ELSE 'table' END, name, format('count(*) FROM ONLY %s', name)
  FROM relation WHERE relkind = 'r'
  UNION ALL
  SELECT 'sequence', name, format($$last_value || E'\t' || CASE WHEN is_called THEN 't' ELSE 'f' END FROM %s$$, name)
  FROM relation WHERE relkind = 'S'
  UNION ALL
  SELECT 'extension', extname, format('%L', extversion) FROM pg_extension
  UNION ALL
  SELECT 'largeobject', NULL, 'count(*) FROM pg_largeobject_metadata'
)
SELECT format('SELECT %L || %s', concat_ws(E'\t', key, :'database',
    replace(replace(replace(name, '\', '\\'), E'\t', '\t'), E'\n', '\n'), ''), rest)
FROM line ORDER BY key, name
\gexec
