-- Once, on the new cluster: the database, the role that owns it and migrates, and the role of the servers.
-- psql reads the two passwords from its variables owner_password and server_password.
CREATE ROLE modelregistry_owner LOGIN PASSWORD :'owner_password';
CREATE ROLE modelregistry_server LOGIN PASSWORD :'server_password';
CREATE DATABASE modelregistry OWNER modelregistry_owner;
