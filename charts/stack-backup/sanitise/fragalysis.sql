-- What a copy of Fragalysis' database must not tell: who its users are, and what lets somebody act as one of them.
-- Tables and columns of Django and of apps that are often beside it; what the database lacks is no fault.

DO $$
DECLARE
    salt CONSTANT text := gen_random_uuid()::text;  -- of this run alone, so that nobody can try addresses
    found record;
BEGIN
    -- Rows that are of use to their users alone: sessions, keys, tokens, what they are logged to have done.
    FOR found IN
        SELECT c.oid::regclass AS name
        FROM unnest(ARRAY[
            'django_session', 'django_admin_log',
            'authtoken_token', 'knox_authtoken', 'token_blacklist_blacklistedtoken', 'token_blacklist_outstandingtoken',
            'oauth2_provider_refreshtoken', 'oauth2_provider_accesstoken', 'oauth2_provider_idtoken', 'oauth2_provider_grant',
            'social_auth_usersocialauth', 'social_auth_association', 'social_auth_code', 'social_auth_nonce',
            'social_auth_partial',
            'account_emailconfirmation', 'account_emailaddress', 'socialaccount_socialtoken', 'socialaccount_socialaccount',
            'otp_static_statictoken', 'otp_static_staticdevice', 'otp_totp_totpdevice', 'otp_email_emaildevice',
            'viewer_csetkeys'
        ]) WITH ORDINALITY AS list (relname, place)
        JOIN pg_class c USING (relname)
        WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
        ORDER BY list.place
    LOOP
        EXECUTE format('DELETE FROM %s', found.name);
    END LOOP;

    -- No trigger of the application may keep what is replaced from here on, such as one that logs each change.
    PERFORM set_config('session_replication_role', 'replica', true);

    -- Who somebody is. Rows refer to users by number, so nothing else changes.
    FOR found IN
        SELECT c.oid::regclass AS name, string_agg(format('%I = %s', a.attname, list.value), ', ') AS assignments
        FROM (VALUES
            ('auth_user', 'username', '''user-'' || id'),
            ('auth_user', 'first_name', ''''''),
            ('auth_user', 'last_name', ''''''),
            ('auth_user', 'last_login', 'NULL'),
            -- As Django marks a password that nobody has: an exclamation mark and forty characters.
            ('auth_user', 'password', '''!'' || md5(random()::text) || left(md5(random()::text), 8)'),
            ('viewer_computedsetsubmitter', 'name', '''submitter-'' || id'),
            ('viewer_computedsetsubmitter', 'institution', '''''')
        ) AS list (relname, attname, value)
        JOIN pg_class c USING (relname)
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = list.attname
        WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND NOT a.attisdropped AND a.attgenerated = ''
        GROUP BY c.oid
    LOOP
        EXECUTE format('UPDATE %s SET %s', found.name, found.assignments);
    END LOOP;

    -- Every address in a column that says in its name to hold one. The same address stays the same, and two stay two.
    FOR found IN
        SELECT c.oid::regclass AS name, quote_ident(a.attname) AS column_
        FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_attribute a ON a.attrelid = c.oid
        JOIN pg_type t ON t.oid = a.atttypid
        WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
            AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
            AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
            AND a.attname ~* 'e_?mail' AND t.typname IN ('text', 'varchar', 'citext')
    LOOP
        EXECUTE format(
            'UPDATE %1$s SET %2$s = ''mail-'' || left(md5(%3$L || lower(%2$s::text)), 16) || ''@example.invalid'' WHERE %2$s <> ''''',
            found.name, found.column_, salt
        );
    END LOOP;
END
$$;
