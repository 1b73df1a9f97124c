-- The compounds that the caller copied into the temporary table `incoming` (number, smiles, name), and what RDKit
-- makes of them. Those that RDKit cannot read are passed over; `dataset.molecules` is how many are wanted.

SET LOCAL ROLE fragalysis;

CREATE SCHEMA rdk;
CREATE TABLE rdk.mols (
    compound_id bigint PRIMARY KEY REFERENCES public.viewer_compound,
    m public.mol NOT NULL
);
CREATE TABLE rdk.fingerprints (
    compound_id bigint PRIMARY KEY REFERENCES public.viewer_compound,
    morgan public.bfp NOT NULL
);

CREATE TEMPORARY TABLE parsed ON COMMIT DROP AS
    SELECT number, smiles, name, m
    FROM (SELECT *, public.mol_from_smiles(smiles::cstring) AS m FROM incoming OFFSET 0) read
    WHERE m IS NOT NULL ORDER BY number LIMIT current_setting('dataset.molecules')::bigint;
INSERT INTO public.viewer_compound (id, target_id, smiles, name, tags, weight, log_p, price, properties, modified)
    SELECT number, 100 + 3 * (number % 8), smiles, name,
        ARRAY['real', 'rings: ' || public.mol_numrings(m)], public.mol_amw(m), public.mol_logp(m),
        round((random() * 1000)::numeric, 4),
        CASE WHEN number % 9 > 0 THEN jsonb_build_object(
            'tpsa', public.mol_tpsa(m), 'formula', public.mol_formula(m)::text, 'donors', public.mol_hbd(m)) END,
        CASE WHEN number % 3 > 0 THEN timestamp '2021-06-01' + number * interval '1 hour' END
    FROM parsed;
SELECT setval('public.viewer_compound_id_seq', max(number)) FROM parsed;
INSERT INTO rdk.mols SELECT number, m FROM parsed;
INSERT INTO rdk.fingerprints SELECT number, public.morganbv_fp(m) FROM parsed;

CREATE INDEX mols_m ON rdk.mols USING gist (m);
CREATE INDEX fingerprints_morgan ON rdk.fingerprints USING gist (morgan);
CREATE MATERIALIZED VIEW rdk.with_benzene AS
    SELECT compound_id, public.mol_murckoscaffold(m) AS scaffold
    FROM rdk.mols WHERE m OPERATOR(public.@>) 'c1ccccc1'::public.mol AND compound_id < 500;
GRANT USAGE ON SCHEMA rdk TO frag_reader;
