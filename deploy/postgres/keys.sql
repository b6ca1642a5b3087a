-- Database and role of the keystore. Run as a superuser on the cluster of the keystore, best another one than the event log's:
--   psql -v password="'…'" -f keys.sql
create role oubliette_keys login password :password connection limit 40;
create database oubliette_keys owner oubliette_keys encoding 'UTF8' template template0;
grant set on parameter log_statement, log_min_duration_statement, log_min_duration_sample, log_transaction_sample_rate,
  log_parameter_max_length, log_min_error_statement, log_error_verbosity to oubliette_keys;
alter role oubliette_keys set log_parameter_max_length_on_error = 0;
grant execute on function pg_control_system() to oubliette_keys;
-- For the wash after a destruction: without these it is reported as incomplete.
grant pg_checkpoint to oubliette_keys;
grant execute on function pg_switch_wal() to oubliette_keys;
-- For the wash to see whether a transaction of somebody else still holds on to old rows.
grant pg_read_all_stats to oubliette_keys;
