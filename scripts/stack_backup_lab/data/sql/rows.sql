-- Rows of the tables that schema.sql makes, drawn from random() as seeded by the caller. Run as fragalysis.

INSERT INTO public.django_content_type (app_label, model)
    SELECT app, model FROM unnest(ARRAY['auth', 'sessions', 'viewer', 'hypothesis']) app,
        unnest(ARRAY['user', 'group', 'target', 'compound', 'pose']) model;
INSERT INTO public.django_migrations (app, name, applied)
    SELECT 'viewer', to_char(n, 'FM0000') || '_auto_' || md5(n::text),
        timestamptz '2020-01-01Z' + n * interval '9 days 1 hour'
    FROM generate_series(1, 120) n;
INSERT INTO public.django_session
    SELECT substr(encode(sha256(random()::text::bytea), 'hex'), 1, 32),
        '.eJ' || encode(sha512(random()::text::bytea), 'base64') || ':1',
        timestamptz '2022-11-28Z' + random() * interval '14 days'
    FROM generate_series(1, 2000);
INSERT INTO public.auth_group (name) VALUES ('Admins'), ('Diamond: lb13385'), ('Gäste');
INSERT INTO public.auth_user (password, last_login, is_superuser, username, email, date_joined)
    SELECT 'pbkdf2_sha256$260000$' || md5(random()::text) || '$' || encode(sha256(random()::text::bytea), 'base64'),
        CASE WHEN n % 5 > 0 THEN timestamptz '2022-11-01Z' + random() * interval '27 days' END,
        n = 1, 'user-' || n, CASE WHEN n % 7 > 0 THEN 'User.' || n || '@example.org' ELSE '' END,
        timestamptz '2020-03-01Z' + n * interval '1 day'
    FROM generate_series(1, 500) n;
INSERT INTO public.auth_user_groups (user_id, group_id) SELECT id, 1 + id % 3 FROM public.auth_user;

INSERT INTO public.viewer_target (title, status, completeness, chains, centres, grid, metadata)
    SELECT name, (enum_range(NULL::public.target_status))[1 + n % 4], round((random() * 100)::numeric, 2),
        ARRAY['A', 'B, "C"', NULL, '', '\', '{}'],
        ARRAY[(random(), -1e-300, 'NaN')::public.point, NULL, ('Infinity', NULL, 0)::public.point],
        ARRAY[[n, 2], [3, NULL]],
        jsonb_build_object('pdb', md5(name), 'resolution', 1 + random(), 'nested', jsonb_build_array(n, NULL, true, 'é\n'))
    FROM unnest(ARRAY['Mpro', 'NUDT7A_CRUDE', 'XX02KALRNA', 'A71EV2A', 'CHIKV_MacB', 'Zika NS3 / 2', 'PTP1B "x"', 'αβ-crystallin'])
        WITH ORDINALITY AS t (name, n);
INSERT INTO public.viewer_snapshot
    SELECT md5('snapshot ' || n)::uuid, 100 + 3 * (n % 8),
        CASE WHEN n > 20 THEN md5('snapshot ' || n / 20)::uuid END, 1 + n % 500,
        format(E'{"view" : [%s,  %s],\t"view": "twice, order kept", "text":"\\u00e9 \\\\ \\"quoted\\""}', random(), n)::json,
        timestamptz '2022-01-01Z' + n * interval '7 hours 13 minutes 0.123456 seconds'
    FROM generate_series(1, 600) n;
UPDATE public.viewer_target SET latest_snapshot = (
    SELECT id FROM public.viewer_snapshot s WHERE s.target_id = viewer_target.id ORDER BY created DESC LIMIT 1);

INSERT INTO public.viewer_file (name, content)
    SELECT 'every byte', string_agg(decode(lpad(to_hex(n), 2, '0'), 'hex'), '' ORDER BY n) FROM generate_series(0, 255) n
    UNION ALL SELECT 'nothing', ''
    UNION ALL SELECT 'keep', '\x1f8b08000000000000ff030000000000000000005c2e0a5c2e0a'
    UNION ALL SELECT 'file ' || n, (SELECT string_agg(sha512((random() + n + i)::text::bytea), '')
        FROM generate_series(1, (random() * 80)::integer + 1) i)
    FROM generate_series(1, 300) n;
INSERT INTO public.viewer_booking
    SELECT 'I04-1', tstzrange(day, day + interval '8 hours', '[)'),
        ('172.23.' || extract(doy FROM day)::integer % 250 || '.0/24')::inet
    FROM generate_series(timestamptz '2022-01-01Z', '2022-12-31Z', '1 day') day;
INSERT INTO public.viewer_booking VALUES
    ('I04-1', '(,2021-01-01Z)', 'fe80::1', '-1 year -2 mons +3 days -04:05:06.789'),
    ('i03', 'empty', NULL, '0');
INSERT INTO public."Ligand Sets (2022) ""new"" \ old" VALUES
    ('twice', 1, 'NaN'), ('twice', 1, 'NaN'), ('', NULL, 1e-100),
    (NULL, NULL, 123456789012345678901234567890.12345), ('\N', -1, 0.0), ('\.', 0, 0.00);
INSERT INTO public.viewer_columnless DEFAULT VALUES;
INSERT INTO public.viewer_columnless DEFAULT VALUES;
INSERT INTO public.viewer_action (happened, user_id, what)
    SELECT timestamptz '2021-12-01Z' + random() * interval '1000 days', 1 + (random() * 499)::integer,
        (ARRAY['view', 'download', 'upload', 'tag'])[1 + n % 4]
    FROM generate_series(1, 5000) n;
INSERT INTO public.viewer_note (text, secret) 
    SELECT 'Note ' || n || E':\n\t"first" line\r\nsecond', n % 3 = 0 FROM generate_series(1, 50) n;
REFRESH MATERIALIZED VIEW public.viewer_users_by_month;

SELECT setval('public.run_number', -300), setval('public.auth_user_id_seq', 100000, false);
