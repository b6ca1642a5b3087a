-- Database and role of the event log. Run as a superuser on the cluster of the event log:
--   psql -v password="'…'" -f events.sql
create role oubliette_events login password :password connection limit 60;
create database oubliette_events owner oubliette_events encoding 'UTF8' template template0;
-- Values are bound, never written into statements. These settings keep bound values, and rows that errors quote, out of the
-- server's log; the role sets them itself in every session, if it may.
grant set on parameter log_statement, log_min_duration_statement, log_min_duration_sample, log_transaction_sample_rate,
  log_parameter_max_length, log_min_error_statement, log_error_verbosity to oubliette_events;
alter role oubliette_events set log_parameter_max_length_on_error = 0;
-- Reads `system_identifier`, to refuse event log and keystore in one database.
grant execute on function pg_control_system() to oubliette_events;
