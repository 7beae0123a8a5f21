{{ monthly_cash_flow(by=['partner_id']) }}
