"""Lake Formation: tags are added, not replaced; an untagged resource has none; columns show theirs."""

import json
from collections.abc import Iterator
from typing import Any

from moto.lakeformation.responses import LakeFormationResponse

Tags = list[dict[str, Any]]


class CorrectedLakeFormation(LakeFormationResponse):
    """Moto's Lake Formation with AWS's behaviour of tags on resources."""

    def add_lf_tags_to_resource(self) -> str:
        """moto: the new tags replace the old ones. AWS: they are added; a known key gets new values."""
        resource, tags = self._get_param("Resource"), self._get_param("LFTags")
        before = {place: list(store.get(place, [])) for store, place in self._places(resource)}
        answer = super().add_lf_tags_to_resource()
        if not json.loads(answer)["Failures"]:
            keys = {tag["TagKey"] for tag in tags}
            for store, place in self._places(resource):
                store[place] = [tag for tag in before[place] if tag["TagKey"] not in keys] + list(tags)
        return answer

    def remove_lf_tags_from_resource(self) -> str:
        """moto: fails (HTTP 500) where the resource lacks a tag. AWS: removes what is there."""
        keys = {tag["TagKey"] for tag in self._get_param("LFTags")}
        for store, place in self._places(self._get_param("Resource")):
            store[place] = [tag for tag in store.get(place, []) if tag["TagKey"] not in keys]
        return json.dumps({"Failures": []})

    def get_resource_lf_tags(self) -> str:
        """moto: fails (HTTP 500) for an untagged resource, and forgets columns. AWS: shows what there is."""
        resource = self._get_param("Resource")
        table = resource.get("Table") or resource.get("TableWithColumns")
        database = table["DatabaseName"] if table else resource["Database"]["Name"]
        account, backend = self.current_account, self.lakeformation_backend
        answer: dict[str, Any] = {}
        if tags := backend.lf_database_tags.get((account, database)):
            answer["LFTagOnDatabase"] = tags
        if table:
            place = (account, database, table.get("Name"))
            if tags := backend.lf_table_tags.get(place):
                answer["LFTagsOnTable"] = tags
            tagged = [
                {"Name": key[3], "LFTags": tags}
                for key, tags in backend.lf_columns_tags.items()
                if key[:3] == place and tags
            ]
            if tagged:
                answer["LFTagsOnColumns"] = tagged
        return json.dumps(answer)

    def _places(self, resource: dict[str, Any]) -> Iterator[tuple[dict[tuple, Tags], tuple]]:
        """Where moto keeps the tags of a resource: a dictionary, and the key in it."""
        backend = self.lakeformation_backend
        for kind, named in resource.items():
            account = named.get("CatalogId", self.current_account)
            if kind == "Database":
                yield backend.lf_database_tags, (account, named["Name"])
            elif kind == "Table":
                yield backend.lf_table_tags, (account, named["DatabaseName"], named["Name"])
            elif kind == "TableWithColumns":
                for column in named.get("ColumnNames", []):
                    yield (
                        backend.lf_columns_tags,
                        (account, named["DatabaseName"], named["Name"], column),
                    )
